"""Runs the catalog's migrations on the connection that `mt_paas_db.migrate.catalog` hands over."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table_schema="mt_paas",
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
