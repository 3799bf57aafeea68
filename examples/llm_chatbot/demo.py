"""The demonstration: three universities in one database, and what one of them can see of another.

``python -m llm_chatbot.demo``, with ``examples`` on PYTHONPATH, or ``make demo``. Exit status: 0 if the server
stopped exactly what tier ``role`` promises to stop, 1 if not, 130 or 143 if interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from llm_chatbot.corpus import Corpus, load_corpus
from llm_chatbot.embedded import EmbeddedServer, NoEmbeddedServerError, embedded_server
from llm_chatbot.models import Base
from llm_chatbot.repositories import AsyncConversationRepository, ConversationRepository, Counts, Hit
from llm_chatbot.stage import POOL_SIZE, set_stage
from llm_chatbot.table import table
from llm_chatbot.verdicts import Finding, Verdict, try_all
from mt_paas_db import TenancyError, TenantManager, configure, load_settings

INSTALLATION = "llm_chatbot"
TENANTS = {
    "hallym": ("한림대학교", "chat.hallym.ac.kr"),
    "korea": ("고려대학교", "chat.korea.ac.kr"),
    "snu": ("서울대학교", "chat.snu.ac.kr"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="llm_chatbot.demo", description="Three tenants, and a wall between them.")
    parser.add_argument("--factor", type=int, default=1, help="times the volume of the corpus (default: 1)")
    parser.add_argument("--seed", type=int, default=2026, help="of the volume beyond the corpus (default: 2026)")
    options = parser.parse_args(arguments)
    if options.factor < 1:
        parser.error("--factor must be 1 or more")
    # A terminal in another encoding shows a question mark, rather than ending the demonstration.
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where it was started in the background
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)  # by an exception, so that the server is stopped on the way out
    started = time.monotonic()
    try:
        print("Starting an embedded PostgreSQL (no port, a Unix socket in a temporary folder) ...", flush=True)
        with embedded_server() as server:
            print(f"PostgreSQL {server.version} answers after {time.monotonic() - started:.1f} s.\n", flush=True)
            findings = tell(server, load_corpus().grow(options.seed, options.factor))
    except KeyboardInterrupt:
        print("\ninterrupted; the server is stopped and its folder removed", file=sys.stderr)
        return 130
    except NoEmbeddedServerError as error:
        print(error, file=sys.stderr)
        return 1
    status = conclude(findings)
    print(f"\nDone in {time.monotonic() - started:.1f} s; the server is stopped and its folder removed.")
    return status


_orders_to_leave: list[int] = []


def _leave(number: int, _frame: object) -> NoReturn:
    _orders_to_leave.append(number)
    raise SystemExit(128 + number)


def _obey() -> None:
    """Leave if a signal said so: Python drops what a handler raises inside a finalizer or weak reference."""
    if _orders_to_leave:
        raise SystemExit(128 + _orders_to_leave[0])


def tell(server: EmbeddedServer, corpus: Corpus) -> list[Finding]:
    """Run the whole story on `server` and return what the attempts found."""
    manager = install(server)
    try:
        create_tenants(manager)
        load(corpus)
        _obey()
        show_a_query(manager)
        suspend_and_resume(manager)
        findings = attempt_everything(manager)
        _obey()
        return findings
    finally:
        manager.close()


def install(server: EmbeddedServer) -> TenantManager:
    """Create the service's database, and configure and initialise the library in it."""
    server.create_database(INSTALLATION)
    cluster = {
        "app_dsn": server.dsn(INSTALLATION, user=f"{INSTALLATION}_app"),
        "admin_dsn": server.dsn(INSTALLATION),
    }
    # Tenants follow each other on the connection that was used last, so that a leak must show.
    settings = load_settings(installation=INSTALLATION, clusters={"main": cluster}, home="main", pool_size=POOL_SIZE)
    manager = configure(settings, models=Base)
    installation = manager.init()
    print(f"Installation {installation.name}: catalog version {installation.catalog_version}.\n")
    return manager


def create_tenants(manager: TenantManager) -> None:
    rows = []
    for tenant_id, (display_name, alias) in TENANTS.items():
        started = time.monotonic()
        tenant = manager.create(tenant_id, display_name=display_name, aliases=[alias], actor="demo")
        took_ms = (time.monotonic() - started) * 1000
        rows.append([tenant.tenant_id, tenant.display_name, alias, tenant.placement.schema_name, f"{took_ms:.0f} ms"])
    print(table(["tenant", "name", "alias", "schema and role", "created in"], rows), end="\n\n", flush=True)


def load(corpus: Corpus) -> None:
    """Load the corpus through the repositories, and count what each tenant sees of it."""
    print(f"Loading {len(corpus.conversations)} conversations. {corpus.note}", flush=True)
    for tenant_id in TENANTS:
        ConversationRepository(tenant_id).record(corpus.of(tenant_id))
    counts = {tenant_id: ConversationRepository(tenant_id).count() for tenant_id in TENANTS}
    rows = [[tenant_id, TENANTS[tenant_id][0], *_cells(found)] for tenant_id, found in counts.items()]
    total = Counts(*(sum(column) for column in zip(*map(_numbers, counts.values()), strict=True)))
    rows.append(["", "", *_cells(total)])
    print(table(["tenant", "name", "users", "conversations", "messages"], rows), end="\n\n", flush=True)


def _numbers(counts: Counts) -> tuple[int, int, int]:
    return counts.users, counts.conversations, counts.messages


def _cells(counts: Counts) -> list[str]:
    return [str(number) for number in _numbers(counts)]


def show_a_query(manager: TenantManager) -> None:
    """The same search in each tenant; in the last by asyncio, and under its alias."""
    phrase = "장학금"
    alias = TENANTS["snu"][1]
    found = {name: ConversationRepository(name).search(phrase, limit=50) for name in ("hallym", "korea")}
    found[f"{alias}, async"] = asyncio.run(_search(manager, alias, phrase))
    rows = [[name, str(len(hits)), hits[0].title, hits[0].body] for name, hits in found.items() if hits]
    print(f"Messages with {phrase!r}, by ConversationRepository(tenant).search:")
    header = ["tenant", "hits", "first in", "message"]
    print(table(header, rows, shares=[0, 0, 35, 65]), end="\n\n", flush=True)


async def _search(manager: TenantManager, tenant_id: str, phrase: str) -> list[Hit]:
    try:
        return await AsyncConversationRepository(tenant_id).search(phrase, limit=50)
    finally:
        await manager.aio.close()


def suspend_and_resume(manager: TenantManager) -> None:
    manager.suspend("snu", reason="payment", actor="demo")
    try:
        ConversationRepository("snu").count()
    except TenancyError as error:
        print(f"suspend snu: {type(error).__name__}: {error}")
    state = manager.resume("snu", actor="demo").state
    count = ConversationRepository("snu").count()
    print(f"resume snu:  {state}, with its {count.conversations} conversations\n", flush=True)


def attempt_everything(manager: TenantManager) -> list[Finding]:
    print("Tenant hallym now tries to reach tenant korea (korea stands for its schema and role):\n")
    with set_stage(manager) as stage:
        findings = list(try_all(stage))
    rows = [
        [str(number), finding.attempt.title, finding.attempt.in_short(), finding.in_short(), finding.verdict]
        for number, finding in enumerate(findings, start=1)
    ]
    header = ["#", "tried", "SQL in short", "what came back", "verdict"]
    print(table(header, rows, shares=[0, 20, 38, 42, 0]), end="\n\n", flush=True)
    return findings


def conclude(findings: Sequence[Finding]) -> int:
    """Say in a few lines what the findings mean; return the exit status."""
    promised = [finding for finding in findings if finding.attempt.promised]
    stopped = sum(finding.as_promised for finding in promised)
    print(f"Stopped: {stopped} of the {len(promised)} attempts that tier role promises to stop.")
    for finding in findings:
        if finding.verdict is Verdict.LEAK:
            print(f"LEAK: {finding.attempt.title}: {finding.in_short()}")
        elif finding.verdict is Verdict.UNCLEAR:
            print(f"UNCLEAR: {finding.attempt.title}: {finding.in_short()}")
        elif not finding.as_promised:
            print(f"Stopped, though not promised; is the text below still true? {finding.attempt.title}")
    print(
        "Tier role promises that a service's own bugs reach no other tenant: the server refuses them. It does not\n"
        "promise to hold against hostile SQL, which can take another tenant's role (SET ROLE, set_config) or watch\n"
        "the shared login's statements, nor to hide that neighbours exist.\n"
        "docs/explanation/isolation.md says what does."
    )
    return 0 if all(finding.as_promised for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
