"""Somebody else's code in our transaction: a revision, a seed. It may not end it.

Behind a COMMIT the role and the path of the transaction are gone, and what follows would run as the admin itself, in
any schema. So what would end the transaction is refused before it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event

from mt_paas_db.migrate.statements import ends_transaction

_MAY_END = re.compile(r"\b(?:BEGIN|START|COMMIT|END|ROLLBACK|ABORT|PREPARE)\b", re.IGNORECASE)
"""Most statements have none of these words, and need not be read."""


class LeavesTransactionError(Exception):
    """A COMMIT or ROLLBACK, or Alembic's ``autocommit_block()``: this cannot run in one transaction."""


def refuse_to_leave(*_: Any) -> Any:
    """Raise `LeavesTransactionError`."""
    raise LeavesTransactionError


@contextmanager
def kept_open(connection: Connection) -> Iterator[None]:
    """Refuse, for the block, whatever would end the transaction that `connection` is in. Savepoints are free.

    Raises `LeavesTransactionError` in the code that tries.
    """

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if _MAY_END.search(statement) and _ends(statement):
            raise LeavesTransactionError

    listeners = {"before_cursor_execute": look, "commit": refuse_to_leave, "rollback": refuse_to_leave}
    for name, listener in listeners.items():
        event.listen(connection, name, listener)
    try:
        yield
    finally:
        for name, listener in listeners.items():
            event.remove(connection, name, listener)


def _ends(statement: str) -> bool:
    try:
        return ends_transaction(statement)
    except ValueError:
        return False  # a literal without an end: the server refuses it whole
