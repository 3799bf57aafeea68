"""The threat model's tables are the catalogue's: they say open wherever a tier does not promise, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from mt_paas_db.isolation import promises
from mt_paas_db.isolation.attack import RUN_TIERS, Promise, Tier, not_promised
from mt_paas_db.isolation.catalogue import CATALOGUE
from tests.pages import ROOT

PAGE = ROOT / "docs" / "explanation" / "threat-model.md"
EMPTY = f"{promises.BEGIN}\n{promises.END}\n"


def rows(page: str, heading: str) -> Iterator[list[str]]:
    """Yield the cells of the table under a heading, but for its head."""
    lines = page.partition(f"### {heading}\n\n")[2].partition("\n\n")[0].splitlines()
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_page_is_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == promises.with_tables(text), (
        "run: python -m mt_paas_db.isolation.promises docs/explanation/threat-model.md"
    )


def test_what_a_tier_does_not_promise_is_open_in_its_column() -> None:
    shown = {cells[0].partition("]")[0].lstrip("["): cells[1:] for cells in rows(PAGE.read_text(), "What is not held")}
    said = {
        attack.key: ["**open**" if not attack.promises[tier].held else "held" for tier in RUN_TIERS]
        for attack in CATALOGUE
        if not all(attack.promises[tier].held for tier in RUN_TIERS)
    }
    assert {key: [cell[: len("**open**")] for cell in cells] for key, cells in shown.items()} == said


def test_its_entries_are_on_the_page_of_attacks() -> None:
    there = (ROOT / "docs" / "reference" / "attacks.md").read_text(encoding="utf-8")
    for heading in ("What is not held", "What is held, and what remains of it"):
        for channel, *_ in rows(PAGE.read_text(), heading):
            assert f"\n### {channel.partition(']')[0].lstrip('[')}\n" in there


@pytest.mark.parametrize("tier", RUN_TIERS)
def test_a_promise_that_is_withdrawn_shows(tier: Tier) -> None:
    (attack,) = [attack for attack in CATALOGUE if attack.key == "A1-qualified-names"]
    assert "all held" in promises.with_tables(EMPTY, [attack], [])
    kept: dict[Tier, Promise] = {**attack.promises, tier: not_promised("of | a twin")}
    page = promises.with_tables(EMPTY, [replace(attack, promises=kept)], [])
    ((_, *cells),) = rows(page, "What is not held")
    assert dict(zip(RUN_TIERS, cells, strict=True))[tier].startswith("**open**: of \\")
    assert "0 held, **1 open**" in page
    assert list(rows(page, "What is held, and what remains of it")) == []


def test_a_page_without_a_place_for_them_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        promises.with_tables("# a page\n")
