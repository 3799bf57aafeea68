"""Which attacks the peers hold, and which this library: one script, carried out on each in an environment of its own.

Every verdict rests on canaries that were read: see `benchmarks.attacked`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg import sql

from benchmarks.contestants import OURS, Contestant, contestants
from benchmarks.report import Bar, environment
from mt_paas_db.session.pooler import PoolerProfile
from tests.fleet import PASSWORD
from tests.servers import PgBouncer, PostgresServer, find_pgbouncer, find_postgres

SUMMARY = "the attacks that the peers, and this library, hold or do not, each proven by what was read"

_REPOSITORY = Path(__file__).resolve().parent.parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pg", type=int, metavar="MAJOR", help="PostgreSQL's major version; the newest there is")
    parser.add_argument("--only", action="append", metavar="WORD", help="only contestants whose name holds it")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page for the documentation")


@dataclass(frozen=True)
class Column:
    """What one contestant answered: its versions, and a finding for each attack."""

    contestant: Contestant
    versions: Mapping[str, str]
    findings: Sequence[Mapping[str, Any]]

    def count(self, verdict: str) -> int:
        return sum(finding["verdict"] == verdict for finding in self.findings)

    def outside_promise(self) -> int:
        """How many attacks leaked that its documentation does not say it leaves open."""
        return sum(f["verdict"] == "leaked" and not f["disclaimed"] for f in self.findings)


@dataclass(frozen=True)
class Comparison:
    """The outcome, with the forms that `benchmarks.__main__` asks for."""

    environment: Mapping[str, Any]
    columns: Sequence[Column]
    remarks: Sequence[str]

    @property
    def bars(self) -> list[Bar]:
        """Ours leaks nothing that its tier promises to hold, and no verdict is a guess."""
        ours = [column for column in self.columns if column.contestant.name.startswith(OURS)]
        bars = [Bar(f"{c.contestant.name}: leaks that the tier promises to hold", c.outside_promise(), 0) for c in ours]
        return [*bars, Bar("verdicts that nothing proves", sum(c.count("unclear") for c in self.columns), 0)]

    @property
    def holds(self) -> bool:
        return all(bar.holds for bar in self.bars)

    def as_json(self) -> dict[str, Any]:
        """Return everything, with the evidence."""
        return {
            "name": "peers_isolation",
            "environment": dict(self.environment),
            "contestants": [
                {
                    "name": column.contestant.name,
                    "versions": dict(column.versions),
                    "configuration": column.contestant.configuration,
                    "findings": list(column.findings),
                }
                for column in self.columns
            ],
            "bars": [
                {"name": b.name, "value": b.value, "limit": b.limit, "better": b.better, "holds": b.holds}
                for b in self.bars
            ],
        }

    def as_text(self) -> str:
        """Return the page, what was read where something leaked, and what is to be said about the run."""
        bars = [f"{b.name}: {b.value:g} ({'holds' if b.holds else 'DOES NOT HOLD'})" for b in self.bars]
        unclear = [
            f"unclear: {column.contestant.name}, {finding['attack']}: {' '.join(finding['evidence'])}"
            for column in self.columns for finding in column.findings if finding["verdict"] == "unclear"
        ]  # fmt: skip
        return "\n".join([self.as_markdown(), "", *self._evidence(), "", *self.remarks, *unclear, *bars])

    def as_markdown(self) -> str:
        """Return the table, what ¹ stands for, and the configurations."""
        return "\n".join([*self._table(), "", *self._disclaimers(), "", *self._configurations()])

    def _table(self) -> Iterator[str]:
        yield "| attack | " + " | ".join(column.contestant.name for column in self.columns) + " |"
        yield "|---" * (len(self.columns) + 1) + "|"
        for number, finding in enumerate(self.columns[0].findings):
            cells = [_cell(column.findings[number]) for column in self.columns]
            yield f"| {finding['title']} | " + " | ".join(cells) + " |"
        for verdict in ("held", "leaked", "not applicable"):
            yield f"| *{verdict}* | " + " | ".join(str(column.count(verdict)) for column in self.columns) + " |"

    def _configurations(self) -> Iterator[str]:
        for column in self.columns:
            versions = ", ".join(f"{name} {version}" for name, version in column.versions.items())
            yield f"- **{column.contestant.name}** ({versions}): {column.contestant.configuration}."

    def _disclaimers(self) -> Iterator[str]:
        said: dict[tuple[str, str], list[str]] = {}
        for column in self.columns:
            for finding in column.findings:
                if finding["disclaimed"] and finding["verdict"] == "leaked":
                    said.setdefault((column.contestant.name, finding["disclaimed"]), []).append(finding["title"])
        for (name, words), titles in said.items():
            yield f"- ¹ {name}: {words} ({'; '.join(titles)})."

    def _evidence(self) -> Iterator[str]:
        for column in self.columns:
            for finding in column.findings:
                if finding["verdict"] == "leaked":
                    proof = finding["evidence"][0].replace("|", "\\|")
                    yield f"- {column.contestant.name}, “{finding['title']}”: {proof}"


def _cell(finding: Mapping[str, Any]) -> str:
    words = {"held": "held", "leaked": "**leaked**", "not applicable": "–", "unclear": "unclear"}
    return words[finding["verdict"]] + (" ¹" if finding["disclaimed"] and finding["verdict"] == "leaked" else "")


def run(options: argparse.Namespace) -> Comparison:
    """Carry the script out on all. Raises `LookupError` where there is no PostgreSQL."""
    chosen = [c for c in contestants() if not options.only or any(word in c.name for word in options.only)]
    if not chosen:
        raise LookupError(f"nobody is called {' or '.join(options.only)}")
    columns, remarks = [], []
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer(find_postgres(options.pg)))
        logins = {contestant.name: f"c{number}" for number, contestant in enumerate(chosen)}
        pooler = None
        try:
            find_pgbouncer()
        except LookupError as error:
            remarks.append(f"left out: PgBouncer ({error})")
        else:
            users = dict.fromkeys([name for login in logins.values() for name in (login, f"{login}_app")], PASSWORD)
            pooler = stack.enter_context(PgBouncer(server.port, users=users))
        for contestant in chosen:
            try:
                python = contestant.python()
            except LookupError as error:
                remarks.append(f"left out: {contestant.name}, which cannot be installed ({error})")
                continue
            columns.append(_column(contestant, python, server, logins[contestant.name], pooler))
        version = str(_ask(server, "SHOW server_version")).split()[0]
        bouncer = ".".join(map(str, pooler.version)) if pooler else None
    if not columns:
        raise LookupError("; ".join(remarks))
    done = Comparison(environment(postgresql=version, pgbouncer=bouncer), columns, remarks)
    if options.markdown is not None:
        date = datetime.now(UTC).date().isoformat()
        head = f"Measured on {date}: PostgreSQL {version}, PgBouncer {bouncer or 'left out'}."
        options.markdown.write_text(f"{head}\n\n{done.as_markdown()}\n")
    return done


def _column(
    contestant: Contestant, python: str, server: PostgresServer, login: str, pooler: PgBouncer | None
) -> Column:
    _make_database(server, login, contestant.words)
    if contestant.without_pooler:
        pooler = None
    order = {
        "subject": contestant.subject,
        "url": server.dsn(login, user=login, password=PASSWORD),
        "truth": server.dsn(login),
        "options": dict(contestant.options),
        "pooled_url": pooler.dsn(login, user=login, password=PASSWORD) if pooler else None,
        "no_pooler": contestant.without_pooler or "there is no PgBouncer here",
        "pooled_options": PoolerProfile.parse("pgbouncer").connect_args(contestant.driver),  # type: ignore[arg-type]
        "asyncio": contestant.driver == "asyncpg",
        "packages": [name.partition("[")[0] for name in contestant.packages] or ["sqlalchemy", "psycopg"],
    }
    done = subprocess.run(
        [python, "-m", "benchmarks.attacked.worker", json.dumps(order)],
        cwd=_REPOSITORY, env={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{contestant.name} could not be attacked:\n{done.stderr[-3000:]}")
    (head, *findings) = [json.loads(line) for line in done.stdout.splitlines()]
    with _superuser(server, "postgres") as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(login)))
    return Column(contestant, head["versions"], findings)


def _make_database(server: PostgresServer, login: str, words: str) -> None:
    name = sql.Identifier(login)
    with _superuser(server, "postgres") as connection:
        role = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} " + words)
        connection.execute(role.format(name, sql.Literal(PASSWORD)))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))


def _superuser(server: PostgresServer, database: str) -> Any:
    import psycopg

    return psycopg.connect(server.dsn(database), autocommit=True)


def _ask(server: PostgresServer, query: str) -> Any:
    with _superuser(server, "postgres") as connection:
        return connection.execute(query).fetchone()[0]
