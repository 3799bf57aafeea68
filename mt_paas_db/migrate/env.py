"""``run_env``: the whole ``env.py`` of a service. Alembic's commands then mean the fleet.

``upgrade``, ``downgrade`` and ``stamp`` are runs over all tenants; ``current`` tells where they stand; ``check`` and
``revision --autogenerate`` compare the models with the reference, which is always where the fleet is. What is asked
with ``-x name=value`` is in `_ASKED`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from alembic import context
from alembic.runtime.environment import EnvironmentContext
from alembic.util import CommandError, DatabaseNotAtHead
from sqlalchemy import Connection, MetaData, create_engine
from sqlalchemy.pool import StaticPool

from mt_paas_db.catalog.credentials import CredentialProvider, settings_credentials
from mt_paas_db.catalog.settings import Settings, load_settings
from mt_paas_db.errors import ConfigurationError, TenancyError
from mt_paas_db.migrate.autogenerate import SharedRevisions, only_ours
from mt_paas_db.migrate.fleet import Fleet
from mt_paas_db.migrate.message import identifier
from mt_paas_db.migrate.offline import as_script
from mt_paas_db.migrate.plan import Selection
from mt_paas_db.migrate.policies import OPTION, Compared
from mt_paas_db.migrate.report import Options, Report, Standing
from mt_paas_db.migrate.scripts import Scripts
from mt_paas_db.policies.review import tell

_log = logging.getLogger("alembic.mt_paas_db")  # below Alembic's own, which alembic.ini shows
_TOLD_EVERY_S = 5.0

_ASKED = {
    "tenant": "a tenant's id; may be given several times",
    "wave": "canary or rest",
    "jobs": "connections that work at the same time",
    "max-failures": "how many tenants may fail before the run stops",
    "lock-timeout": "seconds",
    "allow-destructive": "yes",
    "verify": "no",
    "shared": "yes: only what all tenants share",
}


def run_env(
    target_metadata: Any,
    *,
    settings: Settings | None = None,
    credentials: CredentialProvider | None = None,
    transaction_per_migration: bool = False,
    strict: bool = False,
    **configure: Any,
) -> None:
    """Do what the running Alembic command asks, for the fleet. Call it once, in ``env.py``.

    Args:
        target_metadata: The service's `MetaData` or declarative base (or several of them, in a list).
        settings: Where the servers are; read from ``MT_PAAS_DB_*`` in the environment where left out.
        credentials: Turns a cluster's entry into a DSN; answers from `settings` where left out.
        transaction_per_migration: Give each revision a transaction of its own.
        strict: Refuse models whose tables do not say what they are, or whose keys give away other tenants' rows
            (`mt_paas_db.policies`); else they are logged.
        configure: What else Alembic's ``context.configure`` takes, for autogenerate: ``compare_type``,
            ``include_object``, ``render_item`` ...

    Raises Alembic's `CommandError` for whatever the command cannot do, with one of this library's errors as its cause.
    """
    environment: EnvironmentContext = context._proxy  # type: ignore[attr-defined]
    if environment is None:
        raise ConfigurationError("run_env is for env.py, which Alembic runs: start `alembic`, or `mt-paas-db migrate`")
    try:
        metadata = _metadata(target_metadata)
        for each in metadata if isinstance(metadata, list) else [metadata]:
            tell(each, strict=strict)
        command = _Command(environment, metadata, configure)
        command.open(settings or load_settings(), credentials, per_revision=transaction_per_migration)
        command.run()
    except TenancyError as error:
        raise CommandError(str(error)) from error


def _metadata(models: Any) -> MetaData | list[MetaData]:
    if isinstance(models, (list, tuple)):
        return [one for model in models for one in [_metadata(model)] if isinstance(one, MetaData)]
    metadata = getattr(models, "metadata", models)
    if not isinstance(metadata, MetaData):
        raise ConfigurationError(f"run_env takes a MetaData or a declarative base, not {type(models).__name__}")
    return metadata


class _Command:
    """The Alembic command that is running, and the fleet."""

    def __init__(self, environment: EnvironmentContext, metadata: Any, configure: dict[str, Any]) -> None:
        self._environment = environment
        self._metadata = metadata
        self._configure = configure
        self._work: Callable[..., Any] = environment.context_opts["fn"]
        self._destination = environment.context_opts.get("destination_rev")
        self._asked = _asked(environment)
        self._fleet: Fleet

    def open(self, settings: Settings, credentials: CredentialProvider | None, *, per_revision: bool) -> None:
        """Make the fleet of the project that Alembic is running."""
        config = self._environment.config
        location = config.get_alembic_option("script_location") or self._environment.script.dir
        scripts = Scripts(str(location), config=config, may_be_empty=True)
        provider = credentials or settings_credentials(settings)
        self._fleet = Fleet(settings, provider, scripts, per_revision=per_revision)

    def run(self) -> None:
        """Do it."""
        # Alembic tells env.py nothing of its command but the function that would do it for one database.
        name = self._work.__name__
        if name in ("upgrade", "downgrade") and self._environment.is_offline_mode():
            self._print_sql(name)
        elif name == "upgrade":
            self._finish(self._fleet.upgrade(self._target(), **self._options()))
        elif name == "downgrade":
            self._finish(self._fleet.downgrade(self._target(), **self._options()))
        elif name == "do_stamp":
            if self._environment.is_offline_mode():
                raise CommandError("stamp --sql: version tables are written under tenants' locks; leave --sql out")
            self._finish(self._fleet.stamp(self._target(), **self._options()))
        elif name == "display_version" and not self._asked["tenant"]:
            self._print_places()
        else:
            self._compare()

    # -- runs

    def _target(self) -> str:
        wanted = self._destination
        return wanted if isinstance(wanted, str) else " ".join(wanted or ())

    def _selection(self) -> Selection:
        asked = self._asked
        return Selection(
            tenants=tuple(asked["tenant"]),
            canary=tuple(self._fleet.settings.canary),
            wave=_last(asked["wave"]),
            shared_only=_yes(asked["shared"]),
        )

    def _options(self) -> dict[str, Any]:
        asked, options = self._asked, Options()
        try:
            options = replace(
                options,
                jobs=int(_last(asked["jobs"]) or options.jobs),
                max_failures=int(_last(asked["max-failures"]) or options.max_failures),
                lock_timeout_s=float(_last(asked["lock-timeout"]) or options.lock_timeout_s),
                allow_destructive=_yes(asked["allow-destructive"]),
                verify=_last(asked["verify"]) not in ("no", "false", "0"),
            )
        except ValueError as error:
            raise CommandError(f"-x jobs, max-failures and lock-timeout are numbers: {error}") from error
        return {"selection": self._selection(), "options": options, "listener": _Teller()}

    def _finish(self, report: Report) -> None:
        """Say how a run ended; an error where it did not do all it should."""
        said = (
            f"{report.migrated} migrated, {report.unchanged} unchanged, {report.failed} failed, "
            f"{report.not_attempted} not attempted in {report.seconds:.1f} s"
        )
        if report.ok:
            what = "nothing to do" if report.run_id is None else f"run {report.run_id}"
            self._environment.config.print_stdout(f"{what}: {said}")
            return
        lines = [f"run {report.run_id} {report.state}: {said}" + (f"; {report.message}" if report.message else "")]
        lines += [f"  {failure.tenant_id}: {failure.message}" for failure in report.failures[:10]]
        lines.append(f"  `mt-paas-db migrate show {report.run_id}` says more; another upgrade, or `resume`, goes on")
        raise CommandError("\n".join(lines))

    # -- what is only shown

    def _print_places(self) -> None:
        status = self._fleet.status()
        config = self._environment.config
        for heads, number in status.places:
            mark = " (head)" if heads == status.heads else ""
            config.print_stdout(f"{', '.join(heads) or 'base'}{mark}: {number} tenant{'' if number == 1 else 's'}")
        config.print_stdout(f"reference: {', '.join(status.reference) or 'base'}")
        if status.shared is not None:
            config.print_stdout(f"shared: {', '.join(status.shared) or 'base'}")
        if status.behind and getattr(config.cmd_opts, "check_heads", False):
            raise DatabaseNotAtHead(f"{status.behind} tenants are not on all head revisions")

    def _print_sql(self, action: Any) -> None:
        start = self._environment.context_opts.get("starting_rev")
        config = self._environment.config
        output = config.output_buffer or config.stdout
        with self._fleet.ground() as ground:
            output.write(as_script(ground, action, self._target(), start=start, selection=self._selection()))

    def _compare(self) -> None:
        """Let Alembic's own command have the reference, or the tenant that was asked for, to look at."""
        with self._fleet.ground() as ground, _connected(self._fleet, self._schema(ground)) as connection:
            further = self._configure.pop("process_revision_directives", None)
            shared = SharedRevisions(ground, self._environment, further)
            self._environment.configure(
                connection=connection,
                target_metadata=self._metadata,
                **{
                    **self._configure,
                    "include_schemas": bool(ground.shared_schemas),
                    "include_name": only_ours(ground.shared_schemas, self._configure.get("include_name")),
                    "process_revision_directives": shared.sort,
                    "version_table": ground.scripts.version_table,
                    OPTION: Compared(guards=self._fleet.settings.guards),
                },
            )
            self._environment.run_migrations()

    def _schema(self, ground: Any) -> tuple[str, str]:
        names = self._asked["tenant"]
        if not names:
            return ground.home, ground.reference.schema
        if len(names) > 1:
            raise CommandError("this command looks at one schema; name one tenant with -x tenant=")
        chosen = ground.plan("upgrade", "heads", Selection(tenants=tuple(names)))
        del chosen  # raises for one that is not there
        (target,) = [p.target for p in ground.positions() if p.target.tenant_id == names[0]]
        return target.entry, target.schema


@contextmanager
def _connected(fleet: Fleet, where: tuple[str, str]) -> Iterator[Connection]:
    """Connect Alembic to one schema, as the owner. What it changed is rolled back: only runs change a fleet."""
    entry, schema = where
    with fleet.direct.connect(entry) as driver:
        driver.execute(f"SET search_path = {identifier(schema)}, pg_temp".encode())
        driver.autocommit = False
        engine = create_engine("postgresql+psycopg://", creator=lambda: driver, poolclass=StaticPool)
        with engine.connect() as connection:
            yield connection
            connection.rollback()


def _asked(environment: EnvironmentContext) -> dict[str, list[str]]:
    """Return what was asked with -x. Raises `CommandError` for what nobody knows."""
    found: dict[str, list[str]] = {name: [] for name in _ASKED}
    for argument in environment.get_x_argument():
        name, _, value = argument.partition("=")
        name = name.replace("_", "-")
        if name not in found:
            known = "; ".join(f"{name}= {what}" for name, what in _ASKED.items())
            raise CommandError(f"-x {argument}: there is no {name!r}. There are: {known}")
        found[name].append(value)
    return found


def _last(values: list[str]) -> str | None:
    return values[-1] if values else None


def _yes(values: list[str]) -> bool:
    return _last(values) in ("yes", "true", "1", "")


class _Teller:
    """Logs how far a run is, every few seconds."""

    def __init__(self) -> None:
        self._next_s = _TOLD_EVERY_S

    def __call__(self, standing: Standing) -> None:
        if standing.elapsed_s >= self._next_s:
            self._next_s = standing.elapsed_s + _TOLD_EVERY_S
            _log.info(
                "%s: %s of %s done, %s failed, %.0f tenants a second",
                standing.phase,
                standing.done,
                standing.total,
                standing.failed,
                standing.rate,
            )
