"""What a shared table's keys and indexes give away of other tenants' rows, and the statements that mend it. Pure.

Policies hide rows; keys and foreign keys look at all of them. A key without the tenant column makes one tenant's
insert fail on another's row, and names the value; a foreign key without it reaches, and by CASCADE deletes, another's
row; an index that does not lead with it is read across all tenants, which takes time and shows in plans.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Constraint, ForeignKeyConstraint, Index, MetaData, PrimaryKeyConstraint, Table
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.exc import NoReferenceError
from sqlalchemy.schema import AddConstraint, CreateIndex, UniqueConstraint

from mt_paas_db.policies.declarations import declaration_of
from mt_paas_db.policies.statements import DIALECT, qualified

_quote = DIALECT.identifier_preparer.quote


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` is wrong with a table, in words; `mend` is SQL, to be put into a revision and brought into the model."""

    table: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.table}: {self.what}; {self.mend}"


def advice(table: Table) -> list[Finding]:
    """Return what a model's keys and indexes give away; nothing for what is as it should be.

    Of a table that tenants share by rows all keys are looked at, of any other its foreign keys to such tables.
    Raises `ConfigurationError` where what is declared of the table cannot be.
    """
    said = declaration_of(table)
    column = None if said is None else said.column
    found = list(_of_foreign_keys(table, column))
    if column is not None:
        found += [*_of_default(table, column), *_of_keys(table, column), *_of_indexes(table, column)]
    return sorted(found, key=lambda finding: finding.what)


def _of_default(table: Table, column: str) -> Iterator[Finding]:
    default = table.columns[_key_of(table, column)].server_default
    if default is None:
        mend = f"ALTER TABLE {_name(table)} ALTER COLUMN {_quote(column)} SET DEFAULT mt_paas.tenant()"
        yield Finding(table.fullname, f"column {column!r} has no default, and tenants do not know their value", mend)


def _of_keys(table: Table, column: str) -> Iterator[Finding]:
    for key in table.constraints:
        leads = _leading(key)
        if leads is None or leads == column:
            continue
        name = _constraint_name(key)
        what = f"{_KINDS[type(key)]} {name} does not lead with {column!r}: it tells tenants of each other's rows"
        yield Finding(
            table.fullname, what, f"ALTER TABLE {_name(table)} DROP CONSTRAINT {_quote(name)}; {_led(key, column)}"
        )


_KINDS: dict[type[Constraint], str] = {
    PrimaryKeyConstraint: "primary key",
    UniqueConstraint: "unique key",
    ExcludeConstraint: "exclusion constraint",
}


def _leading(key: Constraint) -> str | None:
    """Return the first column of a key; "" where that is an expression, None where the constraint is no key."""
    if isinstance(key, ExcludeConstraint):
        part, _, operator = next(iter(key._render_exprs), ("", None, ""))
        return part.name if operator == "=" and isinstance(part, Column) else ""
    if isinstance(key, (PrimaryKeyConstraint, UniqueConstraint)):
        columns = list(key.columns)
        return columns[0].name if columns else None
    return None


def _led(key: Any, column: str) -> str:
    """Return the statement that makes a key anew, led by the tenant column."""
    if isinstance(key, PrimaryKeyConstraint):  # SQLAlchemy does not like a second one
        named = f"CONSTRAINT {_quote(key.name)} " if isinstance(key.name, str) else ""
        columns = ", ".join(_quote(name) for name in [column, *(c.name for c in key.columns if c.name != column)])
        return f"ALTER TABLE {_name(key.table)} ADD {named}PRIMARY KEY ({columns})"
    copy = key.table.to_metadata(MetaData())
    tenant = copy.columns[_key_of(copy, column)]
    made: Constraint
    if isinstance(key, ExcludeConstraint):
        parts = [(part, operator) for part, _, operator in key._render_exprs if getattr(part, "name", None) != column]
        made = ExcludeConstraint((tenant, "="), *parts, name=key.name, using=key.using, where=key.where)
    else:
        rest = [copy.columns[c.key] for c in key.columns if c.name != column]
        deferred = {"deferrable": key.deferrable, "initially": key.initially}
        made = UniqueConstraint(tenant, *rest, name=key.name, **deferred, **key.dialect_kwargs)
    copy.append_constraint(made)
    return str(AddConstraint(made).compile(dialect=DIALECT)).strip()


def _of_indexes(table: Table, column: str) -> Iterator[Finding]:
    for index in table.indexes:
        first = next(iter(index.expressions), None)
        if isinstance(first, Column) and first.name == column:
            continue
        kind = "unique index" if index.unique else "index"
        using = (index.dialect_kwargs.get("postgresql_using") or "btree").lower()
        needs = " (which needs the extension btree_gin)" if using == "gin" else ""
        needs = " (which needs the extension btree_gist)" if using == "gist" else needs
        what = f"{kind} {index.name} does not lead with {column!r}{needs}: it is searched across all tenants"
        drop = f"DROP INDEX {qualified(str(index.name), table.schema)}"
        yield Finding(table.fullname, what, f"{drop}; {_led_index(index, table, column)}")


def _led_index(index: Index, table: Table, column: str) -> str:
    copy = table.to_metadata(MetaData())
    same: Any = next(each for each in copy.indexes if each.name == index.name)
    rest = [part for part in same.expressions if getattr(part, "name", None) != column]
    tenant = copy.columns[_key_of(copy, column)]
    copy.indexes.discard(same)
    made = Index(str(index.name), tenant, *rest, unique=index.unique, **same.dialect_kwargs)
    return str(CreateIndex(made).compile(dialect=DIALECT)).strip()


def _of_foreign_keys(table: Table, column: str | None) -> Iterator[Finding]:
    for key in table.foreign_key_constraints:
        try:
            target = key.referred_table
        except NoReferenceError:  # a table that is not imported yet
            continue
        said = declaration_of(target)
        if said is None or said.column is None:
            continue
        pairs = {(element.parent.name, element.column.name) for element in key.elements}
        if (column, said.column) in pairs:
            continue
        name = _constraint_name(key)
        drop = f"ALTER TABLE {_name(table)} DROP CONSTRAINT {_quote(name)}"
        if column is None:
            what = f"foreign key {name} leads to rows of {target.fullname!r}, of which each belongs to one tenant"
            yield Finding(table.fullname, what, f"{drop}, or declare the table with shared()")
            continue
        local = ", ".join(map(_quote, [column, *(e.parent.name for e in key.elements)]))
        remote = ", ".join(map(_quote, [said.column, *(e.column.name for e in key.elements)]))
        actions = "".join(
            f" {words} {action}"
            for words, action in (("ON DELETE", key.ondelete), ("ON UPDATE", key.onupdate))
            if action
        )
        what = f"foreign key {name} does not include {column!r}: it reaches other tenants' rows of {target.fullname!r}"
        add = f"ADD CONSTRAINT {_quote(name)} FOREIGN KEY ({local}) REFERENCES {_name(target)} ({remote}){actions}"
        yield Finding(table.fullname, what, f"{drop}, {add}")


def _constraint_name(key: Any) -> str:
    """Return a constraint's name; the one that the server gives where the model gives none."""
    if isinstance(key.name, str):
        return str(DIALECT.identifier_preparer.format_constraint(key)).strip('"')
    if isinstance(key, PrimaryKeyConstraint):
        return f"{key.table.name}_pkey"
    suffix = {UniqueConstraint: "key", ForeignKeyConstraint: "fkey", ExcludeConstraint: "excl"}[type(key)]
    return "_".join([key.table.name, *(c.name for c in key.columns), suffix])


def _key_of(table: Table, column: str) -> str:
    return str(next(c.key for c in table.columns if c.name == column))


def _name(table: Table) -> str:
    return qualified(table.name, table.schema)
