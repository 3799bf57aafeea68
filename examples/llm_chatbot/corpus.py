"""The conversations that the example loads: written for it, and grown from there by a seed.

`load_corpus` reads ``conversations.json``; `Corpus.grow` makes as much volume as a load test wants, the
same for the same seed.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from llm_chatbot.models import MessageRole

CORPUS_FILE = Path(__file__).with_name("conversations.json")

_FAMILY = tuple("김이박최정강조윤장임한오서신권황")
_GIVEN = ("서연", "민준", "지우", "도현", "하린", "예준", "수빈", "시윤", "유나", "건우", "채은", "다인", "태호")
_FIRST = ("Linh", "Omar", "Sofia", "Noah", "Amina", "Yuto", "Clara", "Ivan", "Mei", "Jonas", "Zara", "Tomas")
_LAST = ("Tran", "Haddad", "Rossi", "Weber", "Diallo", "Tanaka", "Novak", "Silva", "Wang", "Larsen", "Khan", "Ruiz")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Line(_Value):
    """One message of a dialogue."""

    role: MessageRole
    body: str


class Dialogue(_Value):
    """One conversation as the corpus holds it; `tenant` is the university that it belongs to."""

    tenant: Literal["hallym", "korea", "snu"]
    language: Literal["ko", "en"]
    topic: str
    title: str
    student_no: str
    name: str
    started_at: AwareDatetime
    messages: tuple[Line, ...]


class Corpus(_Value):
    """All dialogues, with the note that says where they come from."""

    note: str
    conversations: tuple[Dialogue, ...]

    def of(self, tenant: str) -> tuple[Dialogue, ...]:
        """Return the dialogues of one university."""
        return tuple(dialogue for dialogue in self.conversations if dialogue.tenant == tenant)

    def grow(self, seed: int, factor: int) -> Corpus:
        """Return a corpus of `factor` times as many dialogues for each university, the written ones first.

        The others are written ones again, of the same university, by somebody else, on another day, some
        of them broken off early. The same seed gives the same corpus.

        Raises `ValueError` for a factor below 1.
        """
        if factor < 1:
            raise ValueError(f"factor must be 1 or more, got {factor}")
        chance = random.Random(seed)
        grown = list(self.conversations)
        for tenant in dict.fromkeys(dialogue.tenant for dialogue in self.conversations):
            written = self.of(tenant)
            more = range((factor - 1) * len(written))
            grown += [_retold(chance.choice(written), number, chance) for number in more]
        return self.model_copy(update={"conversations": tuple(grown)})


def load_corpus(path: Path = CORPUS_FILE) -> Corpus:
    """Return the corpus in `path`. Raises `OSError`, and `pydantic.ValidationError` for what is no corpus."""
    return Corpus.model_validate_json(path.read_bytes())


def _retold(dialogue: Dialogue, number: int, chance: random.Random) -> Dialogue:
    name = (
        chance.choice(_FAMILY) + chance.choice(_GIVEN)
        if dialogue.language == "ko"
        else f"{chance.choice(_FIRST)} {chance.choice(_LAST)}"
    )
    kept = chance.randrange(2, len(dialogue.messages) + 1)
    return dialogue.model_copy(
        update={
            # Their own series, so that nobody grown shares a number with somebody written.
            "student_no": f"G{number:07d}",
            "name": name,
            "started_at": _another_day(dialogue.started_at, chance),
            "messages": dialogue.messages[:kept],
        }
    )


def _another_day(moment: datetime, chance: random.Random) -> datetime:
    return moment - timedelta(days=chance.randrange(1, 365), minutes=chance.randrange(0, 600))
