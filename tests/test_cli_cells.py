"""``mt-paas-db cell ...``, ``tenant limit`` and ``tenant usage``."""

from __future__ import annotations

import pytest

from mt_paas_db.cli.sizes import parse_size, show_size
from tests.test_cli import CommandLine, bare, campus, mt  # noqa: F401  (fixtures)

pytest.importorskip("typer", reason="extra 'cli' is not installed")


@pytest.fixture
def small(campus: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:  # noqa: F811
    """Of the campus, but that cells hold three tenants and processes remember for a second."""
    monkeypatch.setenv("MT_PAAS_DB_CELL_SIZE", "3")
    with campus.service.superuser() as su:
        su.execute("UPDATE mt_paas.installation SET cache_bound_s = 1")
    campus("tenant", "create", "yonsei")
    return campus


def test_cells_are_shown_and_changed(small: CommandLine) -> None:
    listed = small.json("cell", "list")
    assert [(load["tenants"], load["strays"]) for load in listed["cells"]] == [(3, 0), (1, 0)]
    second = listed["cells"][1]["cell"]
    out = small("cell", "list").out
    assert "3 of 3" in out
    assert "1 of 3" in out
    shown = small.json("cell", "show", second["name"])
    assert (shown["tenants"], shown["settling"]) == (["yonsei"], [])
    moved = small.json("cell", "move", "hallym", "--to", second["name"])
    assert (moved["moved"], moved["done"]) == (["hallym"], True)
    assert [stray["tenant_id"] for stray in moved["revoked"]] == ["hallym"]
    left = small.json("cell", "split", "default", "--no-wait")
    assert (left["moved"], left["done"]) == (["snu"], False)
    assert "snu" in small("cell", "settle", code=4).out
    rotated = small("cell", "rotate", second["name"]).out
    assert f"login {second['login_role']!r} is dropped" in rotated
    assert small.json("cell", "settle")["done"]
    assert small("cell", "settle").out == "nothing to settle\n"
    assert "default" in small("cell", "rotate", "default").out


def test_what_is_refused(small: CommandLine) -> None:
    assert "cell list" in small("cell", "show", "nowhere", code=1).err
    assert "MT_PAAS_DB_CELL_SIZE" in small("cell", "move", "yonsei", "--to", "default", code=3).err
    assert (
        "fewer than two" in small("cell", "split", small.json("cell", "list")["cells"][1]["cell"]["name"], code=3).err
    )


def test_limits(campus: CommandLine) -> None:  # noqa: F811
    assert campus("tenant", "limit", "hallym").out.count("no limit") == 3
    campus("tenant", "limit", "hallym", "--sessions", "4", "--statement-timeout", "2.5", "--storage", "1.5 GB")
    limits = campus.json("tenant", "limit", "hallym", "--sessions", "none")["limits"]
    assert limits == {"max_sessions": None, "statement_timeout_s": 2.5, "storage_bytes": 1_610_612_736}
    for option, value in (("--sessions", "many"), ("--sessions", "0"), ("--storage", "10 stones")):
        campus("tenant", "limit", "hallym", option, value, code=2)


def test_usage(campus: CommandLine) -> None:  # noqa: F811
    assert [one["over"] for one in campus.json("tenant", "usage")["tenants"]] == [False] * 3
    campus("tenant", "limit", "snu", "--storage", "1KB")
    assert "over" in campus("tenant", "usage", code=1).out
    assert campus("tenant", "usage", "hallym").code == 0
    assert "over, read-only now" in campus("tenant", "usage", "--enforce", code=1).out
    assert campus.json("tenant", "show", "snu")["tenant"]["state"] == "read_only"


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("512", 512), ("1kB", 1024), ("1.5MB", 1_572_864), ("10 gb", 10 * 1024**3)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(show_size(size)) == size
