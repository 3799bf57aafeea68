"""How far each tenant's migrations have come, the runs of the fleet, and resolve() that tells what was applied."""

from alembic import op

from mt_paas_db.catalog.resources import resource_path

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(resource_path("sql", "catalog", "0002_migrations.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    raise RuntimeError("version 2 of the catalog cannot be undone: the log of the fleet's runs would be lost")
