"""squawk's warnings about a plan's SQL, and what is said where squawk does not work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mt_paas_db.migrate import squawk
from mt_paas_db.migrate.squawk import FAILED, LintWarning, lint, squawk_available

needs_squawk = pytest.mark.skipif(squawk_available() is None, reason="extra 'lint' is not installed: no squawk")

Found = list[tuple[int, str]]


def found(statements: list[str], *, in_transaction: bool = True, exclude: tuple[str, ...] = squawk.NOT_OURS) -> Found:
    warnings = lint(statements, in_transaction=in_transaction, pg_version=(15, 4), exclude=exclude)
    return [(warning.statement, warning.rule) for warning in warnings]


@needs_squawk
@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("ALTER TABLE note DROP COLUMN title", "ban-drop-column"),
        ("DROP TABLE note", "ban-drop-table"),
        ("CREATE INDEX i ON note (title)", "require-concurrent-index-creation"),
        ("ALTER TABLE note ALTER COLUMN size TYPE bigint", "changing-column-type"),
        ("ALTER TABLE note ADD CONSTRAINT c CHECK (size > 0)", "constraint-missing-not-valid"),
        ("ALTER TABLE note RENAME COLUMN a TO b", "renaming-column"),
    ],
)
def test_locks_rewrites_and_lost_data_are_told(statement: str, rule: str) -> None:
    assert (0, rule) in found([statement])


@needs_squawk
def test_matters_of_taste_are_left_out() -> None:
    statements = [
        "ALTER TABLE note ADD COLUMN size int",
        "CREATE TABLE a (id serial PRIMARY KEY, b varchar(20), c timestamp, d char(3), e smallint)",
        "ALTER TYPE mood ADD VALUE 'good'",
    ]
    assert found(statements) == []
    assert {rule for _, rule in found(statements, exclude=())} >= {
        "require-lock-timeout",
        "require-statement-timeout",
        "prefer-bigint-over-int",
        "prefer-bigint-over-smallint",
        "prefer-identity",
        "prefer-text-field",
        "prefer-timestamp-tz",
        "ban-char-field",
        "require-enum-value-ordering",
    }
    assert "prefer-robust-stmts" in {rule for _, rule in found(statements, in_transaction=False, exclude=())}


@needs_squawk
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\u2028", "\x0b"])
def test_a_warning_names_its_statement(line_end: str) -> None:
    comment = "/* 학사" + line_end + line_end + "*/ "
    statements = ["SELECT 1", comment + "DROP TABLE a;", "SELECT 2 -- ;", comment + "DROP TABLE b" + line_end]
    assert found(statements) == [(1, "ban-drop-table"), (3, "ban-drop-table")]


@needs_squawk
def test_statements_are_read_as_one_script() -> None:
    """An index on a table of the same transaction blocks nobody."""
    index = "CREATE INDEX i ON note (title)"
    assert found(["CREATE TABLE note (title text)", index]) == []
    assert found([index]) == [(0, "require-concurrent-index-creation")]


@needs_squawk
def test_the_transaction_counts() -> None:
    rule = "ban-concurrent-index-creation-in-transaction"
    statements = ["CREATE INDEX CONCURRENTLY i ON note (title)", "SELECT 1"]  # squawk lets one that is alone pass
    assert found(statements, in_transaction=True) == [(0, rule)]
    assert found(statements, in_transaction=False) == []


@needs_squawk
def test_the_transaction_counts_against_a_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".squawk.toml").write_text("assume_in_transaction = true\n")
    monkeypatch.chdir(tmp_path)
    test_the_transaction_counts()


@needs_squawk
def test_the_version_counts() -> None:
    """Before 11, a column with a default was a rewrite."""
    statements = ["ALTER TABLE note ADD COLUMN size bigint DEFAULT 0"]
    rules = [
        [warning.rule for warning in lint(statements, in_transaction=True, pg_version=version)]
        for version in ((10, 0), (15, 4), None)
    ]
    assert rules == [["adding-field-with-default"], [], []]


@needs_squawk
def test_what_squawk_cannot_read_hides_nothing() -> None:
    warnings = found(["DROP TABLE a", "SELEC 1", "DROP TABLE b"])
    assert dict.fromkeys(warnings) == dict.fromkeys([(0, "ban-drop-table"), (1, "syntax-error"), (2, "ban-drop-table")])


@needs_squawk
def test_nothing_to_read() -> None:
    assert found([]) == []


@needs_squawk
def test_a_rule_that_squawk_does_not_know_is_a_failure_that_names_it() -> None:
    (warning,) = lint(["SELECT 1"], in_transaction=True, pg_version=None, exclude=["no-such-rule"])
    assert warning.rule == FAILED
    assert "no-such-rule" in warning.message


FAILURES = {
    "crash": ("sys.stderr.write('thread main panicked'); sys.exit(101)", "exit status 101: thread main panicked"),
    "silence": ("", "exit status 0: "),
    "not a list": ("print('{\"a\": 1}')", "another form"),
    "null": ("print('null')", "another form"),
    "other keys": ('print(\'[{"rule": "x"}]\')', "another form"),
    "other types": (
        'print(\'[{"rule_name": "x", "message": "y", "help": null, "line": "z"}]\')',
        "another form",
    ),
    "hangs": ("import time; time.sleep(60)", "timed out"),
    "reads nothing": ("sys.stdin.close(); print('no')", "exit status 0: no"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_of_squawk_is_one_warning(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = FAILURES[how]
    program = tmp_path / "squawk"
    program.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(squawk, "squawk_available", lambda: str(program))
    if how == "hangs":
        monkeypatch.setattr(squawk, "_TIMEOUT_S", 1.0)
    (warning,) = lint(["SELECT 1"] * 20_000, in_transaction=True, pg_version=(18, 0))
    assert (warning.rule, warning.statement) == (FAILED, 0)
    assert said in warning.message


def test_a_program_that_cannot_be_started_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squawk, "squawk_available", lambda: str(tmp_path))
    (warning,) = lint(["SELECT 1"], in_transaction=True, pg_version=None)
    assert warning.rule == FAILED


def test_without_squawk_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert squawk_available() is None
    assert lint(["SELECT 1"], in_transaction=True, pg_version=None) == [
        LintWarning(FAILED, "squawk is not installed: pip install 'mt_paas_db[lint]'", None, 0)
    ]


def test_the_program_beside_the_interpreter_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, on_path = tmp_path / "beside", tmp_path / "path"
    for folder in (beside, on_path):
        folder.mkdir()
        (folder / "squawk").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    monkeypatch.setenv("PATH", str(on_path))
    assert squawk_available() == str(beside / "squawk")
    (beside / "squawk").unlink()
    assert squawk_available() == str(on_path / "squawk")
