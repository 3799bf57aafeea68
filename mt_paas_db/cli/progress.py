"""How far a long command is, as a bar on stderr; nothing where nobody looks on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mt_paas_db.cli.text import printable

if TYPE_CHECKING:
    from mt_paas_db.core.progress import Listener, Progress
    from mt_paas_db.migrate import report


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


@contextmanager
def run_bar() -> Iterator[report.Listener]:
    """Yield what a run of the fleet reports to: done, failed and left, the rate, and who takes long."""
    console = Console(file=sys.stderr, markup=False, highlight=False)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[more]}"),
    )  # fmt: skip
    with Bar(*columns, console=console, transient=True) as shown:
        task = shown.add_task("planning", total=None, more="")

        def show(standing: report.Standing) -> None:
            shown.update(
                task,
                description=standing.phase,
                total=standing.total or None,
                completed=standing.done + standing.failed,
                more=_more(standing),
            )

        yield show


def _more(standing: report.Standing) -> str:
    parts = [f"{standing.failed} failed"] if standing.failed else []
    parts.append(f"{standing.left} left, {standing.rate:.0f}/s")
    parts += [f"{printable(tenant_id)} for {seconds:.0f} s" for tenant_id, seconds in standing.slowest]
    return ", ".join(parts)
