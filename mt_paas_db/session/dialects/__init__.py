"""SQLAlchemy dialects that begin every transaction with the pin, one per driver.

They register under ``postgresql+mt_psycopg``, ``postgresql+mt_psycopg_async`` and
``postgresql+mt_asyncpg`` when this package is imported; engines of `mt_paas_db.session.engines` use them.
"""

from sqlalchemy.dialects import registry

registry.register("postgresql.mt_psycopg", "mt_paas_db.session.dialects.psycopg", "PinnedPsycopg")
registry.register("postgresql.mt_psycopg_async", "mt_paas_db.session.dialects.psycopg", "PinnedPsycopgAsync")
registry.register("postgresql.mt_asyncpg", "mt_paas_db.session.dialects.asyncpg", "PinnedAsyncpg")
