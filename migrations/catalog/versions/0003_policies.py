"""Row policies: whose tenant's role is in force, guards of a tenant's own tables, shared tables."""

from alembic import op

from mt_paas_db.catalog.resources import resource_path

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = resource_path("sql", "catalog", "0003_policies.sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})  # a percent sign is one


def downgrade() -> None:
    raise RuntimeError("version 3 of the catalog cannot be undone: tables' policies and defaults stand on it")
