"""A process that loads the server, told what to do over standard input: one JSON object a line, one line in answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.scaling.load import Sample

_REPOSITORY = Path(__file__).resolve().parents[2]


class Worker:
    """The process. Use it by ``with``; give an order with `tell` and get the answer with `hear`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scaling.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_REPOSITORY,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()  # its loop ends with its input
        try:
            process.wait(1 if error else 20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def tell(self, what: str, **details: Any) -> None:
        """Give an order."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **details}) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """Return the answer to the oldest order. Raises `RuntimeError` where it failed."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process that loads the server has ended; its error stands above")
        answer = json.loads(line)
        if "failed" in answer:
            raise RuntimeError(f"a process that loads the server failed: {answer['failed']}")
        return answer["answer"]


class Workers:
    """Several processes that work at the same time; each has its share of clients and connections."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self._workers]

    def all(self, what: str, **details: Any) -> list[Any]:
        """Give all the same order; return the answers."""
        for worker in self._workers:
            worker.tell(what, **details)
        return [worker.hear() for worker in self._workers]

    def load(self, what: str, *, share: Mapping[str, Sequence[float]], seed: int, **details: Any) -> Sample:
        """Let all load the server at once, each with its own of each `share`; return what they saw together."""
        busy = []
        for number, worker in enumerate(self._workers):
            own = {name: parts[number] for name, parts in share.items()}
            if all(own.values()):
                worker.tell(what, seed=seed + number * 100_000, **own, **details)
                busy.append(worker)
        together = Sample()
        for found in [worker.hear() for worker in busy]:
            together.seconds = max(together.seconds, found["seconds"])
            together.took_us += found["took_us"]
            together.errors += Counter(found["errors"])
            together.error = together.error or found["error"]
        return together

    def shares(self, number: int) -> list[int]:
        """Return `number` in as many parts as there are processes, as even as can be; a part may be 0."""
        each, more = divmod(number, len(self))
        return [each + (worker < more) for worker in range(len(self))]


@contextmanager
def workers(number: int) -> Iterator[Workers]:
    """Start so many processes; end them afterwards."""
    with ExitStack() as stack:
        yield Workers([stack.enter_context(Worker()) for _ in range(number)])


def main() -> None:
    """Do what the lines of standard input say."""
    from benchmarks.scaling.orders import Orders

    with asyncio.Runner() as runner:
        orders = Orders(runner)
        for line in sys.stdin:
            order = json.loads(line)
            what = order.pop("do")
            try:
                answer: dict[str, Any] = {"answer": getattr(orders, what)(**order)}
            except Exception as error:
                answer = {"failed": _words(error)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


def _words(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(_words(one) for one in error.exceptions))
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
