"""Row policies that cost the same in a fleet of any size."""

from alembic import op

from mt_paas_db.catalog.resources import resource_path

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = resource_path("sql", "catalog", "0004_policies_by_index.sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})  # a percent sign is one


def downgrade() -> None:
    raise RuntimeError("version 4 of the catalog cannot be undone")
