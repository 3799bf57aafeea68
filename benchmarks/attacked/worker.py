"""Carries the script out on one library, in its environment. Its order is JSON, and each finding a line of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from typing import Any

import psycopg
from sqlalchemy.util import greenlet_spawn

from benchmarks.attacked.judge import judge
from benchmarks.attacked.script import ATTACKS
from benchmarks.attacked.stage import ACME, BETA, Stage


def findings(order: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Make the subject and its two tenants, and yield the finding of each attack."""
    module, _, name = order["subject"].partition(":")
    subject = getattr(import_module(f"benchmarks.attacked.{module}"), name)(order["url"], order["options"])
    for tenant in (ACME, BETA):
        subject.create(tenant)
    with psycopg.connect(order["truth"], autocommit=True) as truth:
        pooler = (order["pooled_url"], order["pooled_options"]) if order["pooled_url"] else order["no_pooler"]
        stage = Stage(subject, truth, pooler)
        for attack in ATTACKS:
            yield judge(stage, attack).as_dict()
    subject.refresh()


def main(order: dict[str, Any]) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    versions = {name: metadata.version(name) for name in order["packages"]}
    answers.write(json.dumps({"versions": versions}) + "\n")
    for finding in findings(order):
        answers.write(json.dumps(finding) + "\n")
        answers.flush()


if __name__ == "__main__":
    order_ = json.loads(sys.argv[1])
    if order_["asyncio"]:
        asyncio.run(greenlet_spawn(main, order_))
    else:
        main(order_)
