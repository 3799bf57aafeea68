"""What the command line's exit status says, as one table."""

from __future__ import annotations

from mt_paas_db import errors

OK = 0
FAILED = 1
"""The work failed, or a check found something."""
USAGE = 2
"""The command, an id or the settings are wrong; nothing was sent, or nothing that could change anything."""
REFUSED = 3
"""The tenant's state or a safety rule forbids it; nothing was changed."""
PARTLY = 4
"""Some tenants were migrated and some were not."""
INTERRUPTED = 130

EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    # The most specific class comes first; every class of mt_paas_db.errors has a row.
    (errors.AutocommitError, USAGE),
    (errors.MissingExtraError, USAGE),
    (errors.RevisionError, USAGE),
    (errors.ConfigurationError, USAGE),
    (errors.InvalidIdentifierError, USAGE),
    (errors.ConnectionLimitError, FAILED),
    (errors.LoginRefusedError, FAILED),
    (errors.ServerUnavailableError, FAILED),
    (errors.ReadOnlyServerError, FAILED),
    (errors.PoolExhaustedError, FAILED),
    (errors.MissingRightsError, FAILED),
    (errors.PoolerModeError, FAILED),
    (errors.PoolerConsoleError, FAILED),
    (errors.LockedError, FAILED),
    (errors.PooledConnectionError, FAILED),
    (errors.CatalogMissingError, FAILED),
    (errors.CatalogVersionError, FAILED),
    (errors.InstallationTakenError, REFUSED),
    (errors.ServerError, FAILED),
    (errors.UnknownTenantError, FAILED),
    (errors.TenantExistsError, REFUSED),
    (errors.NameReservedError, REFUSED),
    (errors.UnknownAliasError, FAILED),
    (errors.TenantSuspendedError, REFUSED),
    (errors.TenantNotReadyError, REFUSED),
    (errors.TenantBehindError, REFUSED),
    (errors.TenantUnavailableError, REFUSED),
    (errors.IllegalTransitionError, REFUSED),
    (errors.ConfirmationError, REFUSED),
    (errors.ProvisioningError, FAILED),
    (errors.SchemaMissingError, FAILED),
    (errors.NoOwnLoginError, FAILED),
    (errors.PlacementChangedError, FAILED),
    (errors.TenantError, FAILED),
    (errors.UnknownCellError, FAILED),
    (errors.CellFullError, REFUSED),
    (errors.CellError, REFUSED),
    (errors.MigrationRefusedError, REFUSED),
    (errors.UnknownRunError, FAILED),
    (errors.ForeignFileError, REFUSED),
    (errors.NoTenantError, FAILED),
    (errors.TenantMismatchError, FAILED),
    (errors.ContextLostError, FAILED),
    (errors.ContextError, FAILED),
    (errors.TenancyError, FAILED),
    (KeyboardInterrupt, INTERRUPTED),
    (Exception, FAILED),
)


def exit_code(error: BaseException) -> int:
    """Return the exit code of the first row that `error` is an instance of; `FAILED` for any other."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), FAILED)
