"""What a service's models leave unsaid, and what their keys give away: listed once, or refused."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from sqlalchemy import MetaData, Table

from mt_paas_db.errors import ConfigurationError
from mt_paas_db.policies.advice import Finding, advice
from mt_paas_db.policies.declarations import declaration_of

_log = logging.getLogger("mt_paas_db.policies")

_told: WeakKeyDictionary[MetaData, Review] = WeakKeyDictionary()
_telling = threading.Lock()


@dataclass(frozen=True, slots=True)
class Review:
    """Tables that say nothing, by their full names: in shared schemas, and without a schema. And what was found."""

    undeclared_shared: tuple[str, ...]
    undeclared_own: tuple[str, ...]
    findings: tuple[Finding, ...]


def review(tables: Iterable[Table]) -> Review:
    """Look at what `tables` say of themselves. Raises `ConfigurationError` where it cannot be."""
    tables = sorted(tables, key=lambda table: table.fullname)
    silent = [table for table in tables if declaration_of(table) is None]
    return Review(
        tuple(table.fullname for table in silent if table.schema),
        tuple(table.fullname for table in silent if not table.schema),
        tuple(finding for table in tables for finding in advice(table)),
    )


def tell(metadata: MetaData, *, strict: bool = False) -> None:
    """Log what was found in the models, once as long as it stays the same; or refuse it, where it must be `strict`.

    Raises `ConfigurationError` for declarations that cannot be, and in strict mode for whatever would be logged.
    """
    found = review(metadata.tables.values())
    if strict and (lines := [*_silence(found), *map(str, found.findings)]):
        raise ConfigurationError("the models do not say enough:\n" + "\n".join(f"  {line}" for line in lines))
    with _telling:
        if _told.get(metadata) == found:
            return
        _told[metadata] = found
    if found.undeclared_shared:
        _log.warning("in shared schemas, to be read by all tenants, as nothing is declared: %s; say reference() or "
                     "shared()", ", ".join(found.undeclared_shared))  # fmt: skip
    if found.undeclared_own:
        _log.info("each tenant's own, as nothing is declared: %s", ", ".join(found.undeclared_own))
    for finding in found.findings:
        _log.warning("%s", finding)


def _silence(found: Review) -> list[str]:
    shared = [f"{name}: in a shared schema, say reference() or shared()" for name in found.undeclared_shared]
    return shared + [f"{name}: without a schema, say own()" for name in found.undeclared_own]
