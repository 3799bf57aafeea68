"""Prometheus' text exposition format, version 0.0.4. Pure.

Source: prometheus.io/docs/instrumenting/exposition_formats, "Text format details": one HELP and one TYPE line for each
name, before its samples; in HELP a backslash and a line feed are escaped, in a label's value the double quote too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value under its labels."""

    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its samples. A name of a counter ends in ``_total``."""

    name: str
    kind: Literal["gauge", "counter"]
    says: str
    samples: tuple[Sample, ...]

    @classmethod
    def of(
        cls, name: str, kind: Literal["gauge", "counter"], says: str, samples: Iterable[tuple[Mapping[str, str], float]]
    ) -> Family:
        """Return a family of samples given as labels and value."""
        return cls(name, kind, says, tuple(Sample(tuple(labels.items()), value) for labels, value in samples))


def render(families: Iterable[Family]) -> str:
    """Return the text. A family without samples is left out: nothing is known of it."""
    lines: list[str] = []
    for family in families:
        if not family.samples:
            continue
        lines += [f"# HELP {family.name} {_help(family.says)}", f"# TYPE {family.name} {family.kind}"]
        lines += [f"{family.name}{_labels(sample)} {_number(sample.value)}" for sample in family.samples]
    return "".join(f"{line}\n" for line in lines)


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _labels(sample: Sample) -> str:
    written = ",".join(f'{name}="{_value(value)}"' for name, value in sample.labels)
    return f"{{{written}}}" if written else ""


def _value(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
