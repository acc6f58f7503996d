"""Exports, priorities, expiry, webhooks and the use of API keys."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Every column that must have a value has a default in the database: the code before this
    # revision knows none of them and goes on inserting while it is being replaced.
    of_jobs = (
        sa.Column("kind", sa.String(16), nullable=False, server_default="generate"),
        sa.Column("parent_id", sa.String(64)),
        sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        sa.Column("stage2_result", sa.Text),
        sa.Column("keep_for", sa.Float),
        sa.Column("keep_input", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("expires_at", sa.Float),
        sa.Column("input_removed", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("removed_at", sa.Float),
        sa.Column("sweep_until", sa.Float, nullable=False, server_default="0"),
        sa.Column("webhook_url", sa.Text),
        sa.Column("webhook_events", sa.JSON(none_as_null=True)),
        sa.Column("request_id", sa.String(128)),
        sa.Column("traceparent", sa.String(64)),
    )
    for column in of_jobs:
        op.add_column("jobs", column)
    op.drop_index("jobs_by_turn", "jobs")
    op.create_index("jobs_by_turn", "jobs", ["status", "priority", "created_at"])
    op.create_index("jobs_by_expiry", "jobs", ["expires_at"])
    op.create_index("jobs_of_owner", "jobs", ["owner", "created_at"])
    op.create_index("jobs_by_parent", "jobs", ["parent_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_at", sa.Float),
        sa.Column("delivered_at", sa.Float),
        sa.Column("last_status", sa.Integer),
        sa.Column("last_error", sa.Text),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("lease_until", sa.Float, nullable=False, server_default="0"),
        sa.Column("runner", sa.String(128)),
    )
    op.create_index("deliveries_by_turn", "webhook_deliveries", ["next_at"])
    op.create_index("deliveries_of_job", "webhook_deliveries", ["job_id"])
    op.create_table(
        "key_usage",
        sa.Column("key", sa.String(128), primary_key=True),
        sa.Column("bucket", sa.Integer, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
    )
