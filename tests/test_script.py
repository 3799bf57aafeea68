"""A script's steps: what travels together, what alone, and what a mark says about where it was interrupted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt_paas_db.migrate.script import (
    Item,
    Mark,
    Part,
    Script,
    Step,
    depends_on_place,
    digest,
    runs_outside,
    words,
)

BUILD = Item("CREATE INDEX CONCURRENTLY i ON t (a)", alone=True)
ADD_VALUE = Item("ALTER TYPE mood ADD VALUE 'b'", alone=True)
ONE, TWO, THREE = (Item(f"SELECT {n}") for n in (1, 2, 3))


def script(*parts: tuple[Item, ...], start: str = "a0", per_revision: bool = False) -> Script:
    """The revisions a1, a2 ... with these statements."""
    made = tuple(Part(f"a{n}", (f"a{n}",), items) for n, items in enumerate(parts, 1))
    return Script("upgrade", (start,) if start else (), made[-1].heads, made, per_revision=per_revision)


def shape(steps: list[Step]) -> list[tuple[str, str | None, int | None]]:
    """Each step's statements, ``!`` where it is outside a transaction, its head, and what its mark says is done."""
    return [
        (
            ("!" if step.alone else "") + "; ".join(item.text.split()[-1] for item in step.items),
            step.heads[0] if step.heads else None,
            step.mark.done if step.mark else None,
        )
        for step in steps
    ]


def test_what_can_travels_together() -> None:
    assert shape(script((ONE,), (), (TWO, THREE)).steps()) == [("1; 2; 3", "a3", None)]


def test_each_revision_has_its_transaction_where_it_is_asked_for() -> None:
    steps = script((ONE,), (), (TWO,), per_revision=True).steps()
    assert shape(steps) == [("1", "a1", None), ("", "a2", None), ("2", "a3", None)]


def test_what_must_be_alone_lies_between_two_transactions() -> None:
    steps = script((ONE,), (TWO, BUILD, THREE), (ONE,)).steps()
    assert shape(steps) == [("1; 2", "a1", 1), ("!(a)", "a1", 2), ("3; 1", "a3", None)]
    assert steps[1].begun == Mark("a2", 1, digest((TWO,)), begun=True)


def test_two_that_must_be_alone() -> None:
    assert shape(script((BUILD, BUILD)).steps()) == [("!(a)", "a0", 1), ("!(a)", "a0", 2), ("", "a1", None)]


def test_the_version_table_is_made_before_anything_is_marked_on_it() -> None:
    assert shape(script((BUILD,), start="").steps()) == [("", None, None), ("!(a)", None, 1), ("", "a1", None)]


def test_the_version_is_written_before_the_next_revision_goes_alone() -> None:
    assert shape(script((BUILD,), (BUILD,)).steps()) == [
        ("!(a)", "a0", 1),
        ("", "a1", None),
        ("!(a)", "a1", 1),
        ("", "a2", None),
    ]


def test_what_only_likes_to_be_alone_has_a_transaction_with_its_mark() -> None:
    """So it is never carried out twice."""
    assert shape(script((ONE, ADD_VALUE, TWO)).steps()) == [("1", "a0", 1), ("'b'", "a0", 2), ("2", "a1", None)]


@pytest.mark.parametrize(
    ("statement", "outside"),
    [
        ("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", True),
        ("-- a comment\nDROP INDEX /* so */ concurrently i", True),
        ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", True),
        ("VACUUM t", True),
        ("CALL p()", True),
        ("DO $$ BEGIN COMMIT; END $$", True),
        ("REINDEX TABLE t", True),
        ("ALTER SYSTEM SET x = 1", True),
        ("CREATE DATABASE d", True),
        ("CREATE INDEX i ON t (a)", False),
        ("ALTER TYPE mood ADD VALUE 'CONCURRENTLY'", False),
        ("UPDATE t SET a = 'VACUUM'", False),
        ("-- nothing", False),
    ],
)
def test_what_runs_outside(statement: str, outside: bool) -> None:
    assert runs_outside(statement) is outside


items = st.lists(st.sampled_from([ONE, TWO, THREE, BUILD, ADD_VALUE]), max_size=4).map(tuple)
scripts = st.builds(
    lambda parts, start, per_revision: script(*parts, start=start, per_revision=per_revision),
    st.lists(items, min_size=1, max_size=4),
    st.sampled_from(["a0", ""]),
    st.booleans(),
)


def rest(whole: Script, heads: tuple[str, ...]) -> Script:
    """What the compiler gives for a tenant at these heads."""
    done = next((n for n, part in enumerate(whole.parts, 1) if part.heads == heads), 0)
    return replace(whole, start=heads, parts=whole.parts[done:])


@given(scripts)
def test_every_statement_is_sent_once_and_in_order(whole: Script) -> None:
    steps = whole.steps()
    assert [item for step in steps for item in step.items] == [item for part in whole.parts for item in part.items]
    assert all(len(step.items) == 1 and runs_outside(step.items[0].text) for step in steps if step.alone)
    assert (steps[-1].heads, steps[-1].mark) == (whole.end, None)
    assert not steps[-1].alone


@given(scripts, st.data())
def test_after_any_step_what_is_left_is_what_was_not_done(whole: Script, data: st.DataObject) -> None:
    steps = whole.steps()
    stopped = data.draw(st.integers(0, len(steps) - 2)) if len(steps) > 1 else None
    if stopped is None:
        return
    step = steps[stopped]
    left = rest(whole, step.heads) if step.heads != whole.start else whole
    assert [i for s in left.steps(step.mark) for i in s.items] == [i for s in steps[stopped + 1 :] for i in s.items]


@given(scripts)
def test_a_step_that_had_begun_is_the_next(whole: Script) -> None:
    for step in whole.steps():
        if step.begun is not None:
            left = rest(whole, step.heads) if step.heads != whole.start else whole
            assert left.steps(step.begun)[0] == step


@given(scripts)
def test_marks_can_be_read(whole: Script) -> None:
    for step in whole.steps():
        for mark in (step.mark, step.begun):
            assert mark is None or Mark.parse(str(mark)) == mark
    assert Mark.parse("a service's own words") is None
    assert Mark.parse(None) is None
    assert Mark.parse(str(Mark("a1", None, "clean", begun=True))) == Mark("a1", None, "clean", begun=True)


def test_a_mark_of_another_text_is_refused() -> None:
    mark = script((ONE, BUILD, TWO)).steps()[0].mark
    assert mark is not None
    with pytest.raises(ValueError, match="a1 was changed"):
        script((TWO, BUILD, TWO)).steps(mark)
    with pytest.raises(ValueError, match="a1 was changed"):
        script(()).steps(mark)
    with pytest.raises(ValueError, match="interrupted inside revision a1"):
        replace(script((ONE,)), parts=(Part("b1", ("b1",), (ONE,)),)).steps(mark)
    with pytest.raises(ValueError, match="interrupted inside revision a1"):
        script((ONE,)).steps(replace(mark, done=None))


def test_what_comes_after_the_mark_may_have_changed() -> None:
    mark = script((ONE, BUILD, TWO)).steps()[0].mark
    assert shape(script((ONE, BUILD, THREE)).steps(mark)) == [("!(a)", "a0", 2), ("3", "a1", None)]


# -- stretches: one way each

NEEDS = "it asks op.get_bind()"


def mixed(*kinds: str) -> Script:
    """The revisions a1, a2 ...: ``c`` is compiled, ``o`` needs a connection, ``!`` leaves its transaction."""
    items = {"c": (ONE,), "o": (), "!": (ONE, BUILD)}
    parts = (Part(f"a{n}", (f"a{n}",), items[kind], NEEDS if kind == "o" else None) for n, kind in enumerate(kinds, 1))
    return Script("upgrade", ("a0",), (f"a{len(kinds)}",), tuple(parts))


@pytest.mark.parametrize(
    ("kinds", "ways"),
    [
        ("cc!", "ccc"),
        ("coc", "ooo"),  # one transaction, which cannot be cut
        ("c!oo", "ccoo"),
        ("o!c", "occ"),
        ("co!oc", "cocoo"),  # and after the cut, what is left has one transaction
        ("o", "o"),
    ],
)
def test_each_revision_is_said_to_go_the_way_that_it_goes(kinds: str, ways: str) -> None:
    script = mixed(*kinds)
    said = script.ways()
    assert [way["revision"] for way in said] == [part.revision for part in script.parts]
    assert "".join(way["way"][0] for way in said) == ways
    assert [way["reason"] for way in said] == [NEEDS if kind == "o" else None for kind in kinds]


@given(st.lists(st.sampled_from("co!"), min_size=1, max_size=6))
def test_stretches_are_the_whole_way(kinds: list[str]) -> None:
    script = mixed(*kinds)
    stretches = list(script.stretches())
    assert [part for stretch in stretches for part in stretch.parts] == list(script.parts)
    assert [stretch.start for stretch in stretches] == [script.start, *(stretch.end for stretch in stretches[:-1])]
    assert stretches[-1].end == script.end


def test_after_a_mark_its_revision_is_finished_first() -> None:
    script = mixed(*"!oc")
    mark = Mark("a1", 1, digest((ONE,)))
    assert [part.revision for part in script.stretch(mark).parts] == ["a1"]
    begun_online = script.stretch(Mark("a1", None, "clean", begun=True))
    assert (begun_online.way, begun_online.end) == ("online", ("a1",))
    with pytest.raises(ValueError, match="a2, which does not come next"):
        script.stretch(Mark("a2", 1, "x"))
    with pytest.raises(ValueError, match="a1 was changed"):
        mixed("o", "c").stretch(mark)


# -- destinations


def test_what_leads_to_the_same_place_from_everywhere() -> None:
    assert (words("upgrade", ()), words("upgrade", ("a1", "b1"))) == ("base", "a1 b1")
    assert (words("downgrade", ()), words("downgrade", ("a1", "b1"))) == ("=", "=a1 b1")
    assert [d for d in ("a1", "head", "=a1 b1", "+1", "-1", "bee@head", "a1+1") if depends_on_place(d)] == [
        "+1",
        "-1",
        "bee@head",
        "a1+1",
    ]
