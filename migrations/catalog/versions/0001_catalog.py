"""The control schema: installation, cells, tenants, their names, the lifecycle log, and resolve()."""

from alembic import op

from mt_paas_db.catalog.resources import resource_path

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(resource_path("sql", "catalog", "0001_catalog.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    raise RuntimeError("the first version of the catalog cannot be undone: every tenant's placement would be lost")
