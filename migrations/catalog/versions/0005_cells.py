"""Cells of bounded size: how many tenants are in each, since when; and limits of single tenants."""

from alembic import op

from mt_paas_db.catalog.resources import resource_path

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = resource_path("sql", "catalog", "0005_cells.sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})  # a percent sign is one


def downgrade() -> None:
    raise RuntimeError("version 5 of the catalog cannot be undone: nobody would know which login leads to a tenant")
