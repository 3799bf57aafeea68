"""``python -m benchmarks`` lists the benchmarks; with a name it runs one.

Exit status: 0 where every bar holds, 1 where one does not, 2 for a wrong call or a missing server.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

BENCHMARKS: dict[str, str] = {
    "churn": "benchmarks.churn",
    "fanout": "benchmarks.fanout",
    "imports": "benchmarks.imports",
    "isolation": "benchmarks.isolation",
    "memory": "benchmarks.memory",
    "peers_isolation": "benchmarks.peers_isolation",
    "pool": "benchmarks.pool",
    "prepared": "benchmarks.prepared",
    "provision": "benchmarks.provision",
    "roles": "benchmarks.roles",
    "session": "benchmarks.session",
    "soak": "benchmarks.soak",
    "telemetry": "benchmarks.telemetry",
}


class Outcome(Protocol):
    """What a benchmark hands back: `benchmarks.report.Result`, mostly."""

    @property
    def holds(self) -> bool: ...
    def as_text(self) -> str: ...
    def as_json(self) -> dict[str, Any]: ...


class Benchmark(Protocol):
    """What a benchmark's module has. One that can draw also has ``plot(result, path)``."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add sizes and options of its own."""

    def run(self, options: argparse.Namespace) -> Outcome:
        """Measure. Raises `LookupError` where a server that it cannot do without is missing."""


def main(arguments: Sequence[str]) -> int:
    """Run what `arguments` say and return the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("python -m benchmarks NAME [--json FILE] [--plot FILE.svg] [--full] [sizes]\n")
        for name, module in BENCHMARKS.items():
            print(f"  {name:<15} {_load(module).SUMMARY}")
        return 0
    name, *rest = arguments
    if name not in BENCHMARKS:
        print(f"no benchmark {name!r}; there is {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    benchmark = _load(BENCHMARKS[name])
    options = _parse(name, benchmark, rest)
    try:
        result = benchmark.run(options)
    except LookupError as error:
        print(f"benchmark {name!r} cannot run: {error}", file=sys.stderr)
        return 2
    print(result.as_text())
    if options.json is not None:
        options.json.write_text(json.dumps(result.as_json(), indent=2) + "\n")
    if options.plot is not None:
        benchmark.plot(result, options.plot)  # type: ignore[attr-defined]  # _parse made sure of it
    return 0 if result.holds else 1


def _load(module: str) -> Benchmark:
    return cast("Benchmark", import_module(module))


def _parse(name: str, benchmark: Benchmark, arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=benchmark.SUMMARY)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the result, where there is a picture")
    parser.add_argument("--full", action="store_true", help="take longer and measure more")
    benchmark.add_arguments(parser)
    options = parser.parse_args(arguments)
    for path in (options.json, options.plot):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"there is no folder {path.parent} to write {path.name} into")
    if options.plot is not None and not hasattr(benchmark, "plot"):
        parser.error("this benchmark has no plot; leave --plot out")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
