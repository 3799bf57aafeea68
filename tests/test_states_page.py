"""docs/reference/states.md draws the lifecycle and tabulates it; both must say what the code decides."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from mt_paas_db.catalog.values import TenantState
from mt_paas_db.core.transitions import TRANSITIONS

PAGE = (Path(__file__).resolve().parents[1] / "docs/reference/states.md").read_text()
NOTHING = "[*]"

Edge = tuple[str, str, str]
"""From, action, to."""


def decided() -> set[Edge]:
    edges = {(str(source), action, str(step.to)) for action, step in TRANSITIONS.items() for source in step.sources}
    # Outside the table: a creation begins with nothing, and a deletion ends so.
    return edges | {(NOTHING, "create", "active")}


def drawn(diagram: str) -> set[Edge]:
    """The diagram's arrows. One from a frame is one from each state in it."""
    frames: dict[str, set[str]] = {}
    arrows: list[tuple[str, str, str | None]] = []
    frame = None
    for line in map(str.strip, diagram.splitlines()[1:]):
        if opened := re.fullmatch(r'state ".+" as (\w+) \{', line):
            frame = opened[1]
            frames[frame] = set()
        elif line == "}":
            frame = None
        elif arrow := re.fullmatch(r"(\[\*\]|\w+) --> (\[\*\]|\w+)(?:: (\w+))?", line):
            arrows.append((arrow[1], arrow[2], arrow[3]))
            if frame:
                frames[frame] |= {arrow[1], arrow[2]}
        else:
            assert not line, f"no arrow and no frame: {line!r}"
    assert [(source, action) for source, to, action in arrows if to == NOTHING] == [("deleting", None)]
    spread = [(s, action, to) for source, to, action in arrows if to != NOTHING for s in frames.get(source, {source})]
    assert len(spread) == len(set(spread)), "an arrow is drawn twice"
    return {(source, action or "", to) for source, action, to in spread}


def tabulated(rows: Iterable[str]) -> set[Edge]:
    edges = set()
    for row in rows:
        action, sources, to = (cell.strip() for cell in row.strip("|").split("|"))
        names = re.findall(r"`(\w+)`", sources) + [NOTHING] * sources.startswith("nothing")
        edges |= {(source, action.strip("`"), re.findall(r"`(\w+)`", to)[0]) for source in names}
    return edges


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found
    return found[1]


def diagram() -> str:
    found = re.search(r"```mermaid\n(stateDiagram-v2\n.*?)```", section("Transitions"), re.S)
    assert found
    return found[1]


def test_the_diagram_is_the_transition_table() -> None:
    # It draws the state in between, which the table need not name.
    through = {(NOTHING, "create", "provisioning"), *decided()} - {(NOTHING, "create", "active")}
    assert drawn(diagram()) == through


def test_the_table_is_the_transition_table() -> None:
    rows = re.findall(r"^\| `.*\|$", section("Transitions"), re.M)
    assert tabulated(rows) == decided()
    assert len(rows) == len(TRANSITIONS)


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("archived --> active: restore", "archived --> suspended: restore"),
        ("suspended --> read_only: read_only\n", "\n"),
        ("kept --> archived: archive", "active --> archived: archive"),
    ],
)
def test_a_diagram_that_is_wrong_is_seen(line: str, other: str) -> None:
    """The reader of diagrams sees another target, a missing arrow, and a frame's arrow that is one state's only."""
    changed = diagram().replace(line, other)
    assert changed != diagram()
    assert drawn(changed) != drawn(diagram())


def test_every_state_has_its_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \|.*\| (.+?) \|$", section("What each state means"), re.M)
    assert [state for state, _, _ in rows] == list(TenantState)
    for state, may_take, session in rows:
        assert (may_take == "yes") is TenantState(state).serves
        assert session.startswith("is served") is TenantState(state).serves


def test_the_log_lists_every_action() -> None:
    listed = re.search(r"^\| `action` \| (.*) \|$", section("The log"), re.M)
    assert listed
    assert set(re.findall(r"`(\w+)`", listed[1])) == {*TRANSITIONS, "rename", "add_alias", "release_alias"}
