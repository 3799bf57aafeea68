"""How far a long command is, as a bar on stderr; nothing where nobody looks on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from mt_paas_db.core.progress import Listener, Progress


@contextmanager
def bar() -> Iterator[Listener]:
    """Yield what a long step reports to. stdout stays the answer's."""
    console = Console(file=sys.stderr, markup=False, highlight=False)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=None)

        def show(progress: Progress) -> None:
            shown.update(task, description=progress.what, total=progress.total, completed=progress.done)

        yield show
