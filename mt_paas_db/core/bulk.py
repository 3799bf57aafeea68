"""Many tenants at once: read from a file, checked as a whole, created by several hands."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from mt_paas_db.catalog.identifiers import parse_display_name, parse_name, parse_tenant_id
from mt_paas_db.catalog.values import Tenant
from mt_paas_db.core.progress import Listener, Progress
from mt_paas_db.errors import ConfigurationError, InvalidIdentifierError, TenancyError, TenantExistsError

_COLUMNS = ("id", "name", "aliases")


@dataclass(frozen=True, slots=True)
class NewTenant:
    """A tenant to create. `display_name` is its id where left out."""

    tenant_id: str
    display_name: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Created:
    """What became of many. `existing` were there before; `failed` holds the error of each that is not there now."""

    created: tuple[Tenant, ...]
    existing: tuple[str, ...]
    failed: tuple[tuple[str, Exception], ...]

    @property
    def ok(self) -> bool:
        """Whether all of them are there."""
        return not self.failed

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {
            "created": [tenant.model_dump(mode="json") for tenant in self.created],
            "existing": list(self.existing),
            "failed": [
                {"tenant_id": tenant_id, "type": type(error).__name__, "message": str(error)}
                for tenant_id, error in self.failed
            ],
        }


def read_file(path: str | Path) -> list[NewTenant]:
    """Return the tenants of a CSV file in UTF-8 with a heading: ``id``, and perhaps ``name`` and ``aliases``.

    Several aliases of one tenant are separated by spaces. Raises `ConfigurationError`, with all faulty lines.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: it is not UTF-8 (byte {error.start}); save it as CSV UTF-8") from None
    rows = csv.DictReader(text.splitlines(), strict=True)
    columns = [name.strip() for name in rows.fieldnames or ()]
    if "id" not in columns or not set(columns) <= set(_COLUMNS):
        raise ConfigurationError(f"{path}: the first line names the columns: id, and perhaps name and aliases")
    rows.fieldnames = columns
    try:
        return check([_read(row) for row in rows], where=lambda number: f"{path}, entry {number}: ")
    except csv.Error as error:
        raise ConfigurationError(f"{path}, line {rows.line_num}: {error}") from error


def _read(row: dict[Any, Any]) -> NewTenant:
    name = (row.get("name") or "").strip()
    return NewTenant((row.get("id") or "").strip(), name or None, tuple((row.get("aliases") or "").split()))


def check(tenants: Iterable[NewTenant], *, where: Callable[[int], str] = lambda number: "") -> list[NewTenant]:
    """Return `tenants` if all their names are well formed, and no two claim the same one.

    Raises `ConfigurationError` that lists every fault; `where` says where the n-th stands, from 1.
    """
    checked, faults, claimed = list(tenants), [], dict[str, int]()
    for number, tenant in enumerate(checked, 1):
        try:
            parse_tenant_id(tenant.tenant_id)
            if tenant.display_name is not None:
                parse_display_name(tenant.display_name)
            names = [tenant.tenant_id, *(parse_name(alias) for alias in tenant.aliases)]
        except InvalidIdentifierError as error:
            faults.append(f"{where(number)}{error}")
            continue
        for name in names:
            if name in claimed:
                faults.append(f"{where(number)}{name!r} is claimed by entry {claimed[name]} too")
            claimed.setdefault(name, number)
    if faults:
        raise ConfigurationError("nothing was created:\n" + "\n".join(f"  {fault}" for fault in faults))
    return checked


def create_all(
    tenants: Sequence[NewTenant], create: Callable[[NewTenant], Tenant], *, jobs: int, progress: Listener
) -> Created:
    """Create each by `create`, `jobs` at a time; one that fails does not stop the others."""

    def attempt(new: NewTenant) -> tuple[NewTenant, Tenant | Exception]:
        try:
            return new, create(new)
        except (TenancyError, DBAPIError) as error:
            return new, error

    created: list[Tenant] = []
    existing: list[str] = []
    failed: list[tuple[str, Exception]] = []
    progress(Progress("tenants created", 0, len(tenants)))
    for number, (new, result) in enumerate(_in_parallel(attempt, tenants, jobs), 1):
        if isinstance(result, Tenant):
            created.append(result)
        elif isinstance(result, TenantExistsError):
            existing.append(new.tenant_id)
        else:
            failed.append((new.tenant_id, result))
        progress(Progress("tenants created", number, len(tenants)))
    return Created(tuple(created), tuple(existing), tuple(failed))


def _in_parallel(work: Callable[[NewTenant], Any], tenants: Sequence[NewTenant], jobs: int) -> Iterator[Any]:
    """Yield results in order. What ends the iteration, Ctrl-C too, lets those under way finish and begins no more."""
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="create")
    try:
        yield from pool.map(work, tenants)
    finally:
        pool.shutdown(cancel_futures=True)
