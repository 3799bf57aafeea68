"""Reads and runs the code blocks of a documentation page.

How to write blocks. Each names its language:

- ``python``: executed; the page's blocks share one namespace, and ``await``, ``async with`` may stand at the top.
- ``console``: lines that begin with ``$ `` are run, the rest is output, not compared. ``bash``: every line is run.
  ``mt-paas-db ...`` and ``python FILE`` really run and must exit 0, or as a comment says: ``# exit 3``.
  ``make TARGET``, ``pip install 'mt_paas_db[EXTRA]'`` and ``python -m benchmarks NAME`` must name what there is.
  ``export NAME=value`` holds for the rest of the page, but settings of the installation and its servers are only
  checked for their names. ``git``, ``cd`` and ``apt-get`` are left alone. Anything else is an error.
- ``ini``, ``toml``, ``json``: parsed. ``sql``: only run where marked. ``text``, ``mermaid``: for people.

A page runs in an empty folder, with ``MT_PAAS_DB_*`` set for an initialised installation ``llm_chatbot`` with its
models and the tenants hallym and korea; pages under docs/tutorial begin before ``init``. A comment on the line
before a block changes what is done with it:

- ``<!-- docs: raises UnknownTenantError -->``: the Python block must raise this.
- ``<!-- docs: run -->``: the SQL is run, as superuser, in the service's database.
- ``<!-- docs: file app/models.py -->``: the block is written to this file, for later blocks to import or run.
- ``<!-- docs: skip: reason -->``: nothing is done. Few blocks may be skipped, and the test lists them.
"""

from __future__ import annotations

import ast
import asyncio
import configparser
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest
from markdown_it import MarkdownIt

from mt_paas_db.catalog.settings import ClusterSettings, Settings
from mt_paas_db.core import TenantManager, default

ROOT = Path(__file__).resolve().parents[1]

DIRECTIVE = re.compile(r"<!--\s*docs:\s*(skip|raises|run|file)\b:?\s*(.*?)\s*-->")
COMMAND_LINE = "import sys; from mt_paas_db.cli import main; sys.argv[0] = 'mt-paas-db'; sys.exit(main())"


class DocsError(AssertionError):
    """A block does not do what its page says."""


@dataclass(frozen=True)
class Block:
    """A fenced code block. `line` is that of its first line of text; `directives` are of the comments before it."""

    page: Path
    line: int
    language: str
    text: str
    directives: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """Return the page's fenced blocks. Raises `DocsError` for a comment that is not understood."""
    blocks: list[Block] = []
    directives: dict[str, str] = {}
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "html_block" and "docs:" in token.content:
            for comment in re.findall(r"<!--.*?-->", token.content, re.DOTALL):
                understood = DIRECTIVE.fullmatch(comment)
                if not understood:
                    raise DocsError(f"{page.name}: {comment} is no instruction for this runner")
                directives[understood[1]] = understood[2]
        elif token.type == "fence":
            assert token.map is not None
            blocks.append(Block(page, token.map[0] + 2, token.info.strip(), token.content, directives))
            directives = {}
        elif token.type == "code_block":
            raise DocsError(f"{page.name}: indented code is not checked; fence it: {token.content!r}")
        elif directives and token.nesting >= 0:
            raise DocsError(f"{page.name}: an instruction without a block after it: {directives}")
    if directives:
        raise DocsError(f"{page.name}: an instruction without a block after it: {directives}")
    return blocks


@dataclass
class PageRun:
    """Runs the blocks of one page in `folder`. `patch` undoes what they change; `run_sql` takes marked SQL."""

    folder: Path
    patch: pytest.MonkeyPatch
    run_sql: Callable[[str], object]
    skipped: list[str] = field(default_factory=list)
    _module: ModuleType = field(default_factory=lambda: ModuleType("docs_page"))
    _loop: asyncio.Runner = field(default_factory=asyncio.Runner)

    def __enter__(self) -> Self:
        self.patch.chdir(self.folder)
        self.patch.syspath_prepend(self.folder)
        self.patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (self.folder, ROOT, ROOT / "examples"))))
        # A real module, because declarative classes look up the names in their annotations there.
        self.patch.setitem(sys.modules, self._module.__name__, self._module)
        self.patch.setattr(default, "_manager", None)
        return self

    def __exit__(self, *_: object) -> None:
        made = [value for value in vars(self._module).values() if isinstance(value, TenantManager)]
        for manager in {id(m): m for m in [*made, default._manager] if m is not None}.values():
            self._loop.run(manager.aio.close())
            manager.close()
        self._loop.close()
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").is_relative_to(self.folder):
                del sys.modules[name]

    def run(self, block: Block) -> None:
        """Do what the block's language and instructions ask for. Raises `DocsError`."""
        if "skip" in block.directives:
            if not block.directives["skip"]:
                raise DocsError(f"{block}: skipped without a reason")
            self.skipped.append(f"{block}: {block.directives['skip']}")
            return
        if "file" in block.directives:
            self._write(block)
            return
        runner = getattr(self, f"_run_{block.language}", None)
        if runner is None:
            raise DocsError(f"{block}: no runner for the language {block.language!r}")
        runner(block)

    def _write(self, block: Block) -> None:
        path = self.folder / block.directives["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
        if path.suffix == ".py":
            self._compile(block)

    # -- languages

    def _run_python(self, block: Block) -> None:
        expected = block.directives.get("raises")
        code = self._compile(block)
        try:
            waiting = eval(code, vars(self._module))
            if inspect.iscoroutine(waiting):
                self._loop.run(waiting)
        except Exception as error:
            if expected in [kind.__name__ for kind in type(error).__mro__]:
                return
            shown = "".join(traceback.format_exception(error))
            raise DocsError(f"{block}: raised {type(error).__name__}, expected {expected}\n{shown}") from error
        if expected:
            raise DocsError(f"{block}: raised nothing, expected {expected}")

    def _compile(self, block: Block) -> Any:
        # Blank lines before the code make line numbers in tracebacks those of the page.
        source = "\n" * (block.line - 1) + block.text
        try:
            return compile(source, str(block.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        except SyntaxError as error:
            raise DocsError(f"{block}: {error}") from error

    def _run_console(self, block: Block) -> None:
        joined = block.text.replace("\\\n", " ")
        commands = [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
        if not commands:
            raise DocsError(f"{block}: no line begins with '$ '; use text for mere output")
        for command in commands:
            self._command(block, command)

    def _run_bash(self, block: Block) -> None:
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                self._command(block, line.removeprefix("$ "))

    def _run_ini(self, block: Block) -> None:
        self._parse(block, configparser.ConfigParser(interpolation=None).read_string)

    def _run_toml(self, block: Block) -> None:
        self._parse(block, tomllib.loads)

    def _run_json(self, block: Block) -> None:
        self._parse(block, json.loads)

    def _run_sql(self, block: Block) -> None:
        if "run" in block.directives:
            self._parse(block, self.run_sql)

    def _run_text(self, block: Block) -> None:
        pass

    _run_mermaid = _run_text

    def _parse(self, block: Block, parse: Callable[[str], Any]) -> None:
        try:
            parse(block.text)
        except Exception as error:
            raise DocsError(f"{block}: {type(error).__name__}: {error}") from error

    # -- commands

    def _command(self, block: Block, line: str) -> None:
        exit_comment = re.search(r"#\s*exit (\d+)", line)
        expected = int(exit_comment[1]) if exit_comment else 0
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise DocsError(f"{block}: {line}: {error}") from error
        match words:
            case [] | ["git" | "cd" | "apt-get", *_] | ["sudo", "apt-get", *_]:
                pass
            case ["mt-paas-db", *arguments]:
                self._process(block, line, ["-c", COMMAND_LINE, *arguments], expected)
            case ["alembic", *arguments]:
                self._process(block, line, ["-m", "alembic", *arguments], expected)
            case ["python", "-m", "benchmarks", name, *_]:
                self._must_exist(block, name, {path.stem for path in (ROOT / "benchmarks").glob("*.py")})
            case ["python", script] if script.endswith(".py"):
                self._process(block, line, [script], expected)
            case ["make", *arguments]:
                targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
                for target in [word for word in arguments if "=" not in word]:
                    self._must_exist(block, target, targets)
            case ["pip", "install", *arguments] | ["python", "-m", "pip", "install", *arguments]:
                project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
                for extras in re.findall(r"(?:mt_paas_db|\.)\[([^\]]*)\]", " ".join(arguments)):
                    for extra in extras.split(","):
                        self._must_exist(block, extra.strip(), set(project["optional-dependencies"]))
            case ["export", *assignments]:
                for assignment in assignments:
                    self._export(block, *assignment.partition("=")[::2])
            case _:
                raise DocsError(f"{block}: this runner does not know how to run {line!r}")

    def _process(self, block: Block, line: str, arguments: list[str], expected: int) -> None:
        done = subprocess.run(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        if done.returncode != expected:
            raise DocsError(
                f"{block}: {line!r} exited {done.returncode}, expected {expected}\n{done.stdout}{done.stderr}"
            )

    def _must_exist(self, block: Block, name: str, there: set[str]) -> None:
        if name not in there:
            raise DocsError(f"{block}: there is no {name!r}, only {', '.join(sorted(there))}")

    def _export(self, block: Block, name: str, value: str) -> None:
        if name.startswith("MT_PAAS_DB_"):
            setting = name.removeprefix("MT_PAAS_DB_").lower().split("__")
            self._must_exist(block, setting[0], set(Settings.model_fields))
            if setting[0] == "clusters":
                self._must_exist(block, setting[-1], set(ClusterSettings.model_fields))
            if setting[0] in ("installation", "clusters"):
                return
        self.patch.setenv(name, value)
