"""Jobs, their events, and the stages' heartbeats."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("digest", sa.String(128)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("counted_fence", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("runner", sa.String(128)),
        sa.Column("lease_until", sa.Float, nullable=False),
        sa.Column("mode", sa.String(32), nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("input_path", sa.Text, nullable=False),
        sa.Column("stage1_result", sa.Text),
        sa.Column("stage", sa.String(32)),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("steps", sa.Integer, nullable=False),
        sa.Column("last_seq", sa.Integer, nullable=False),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.Column("stage1", sa.JSON),
        sa.Column("stage2", sa.JSON),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("failure", sa.JSON),
        sa.Column("seconds", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.UniqueConstraint("owner", "idempotency_key", name="one_job_a_key"),
    )
    op.create_index("jobs_by_turn", "jobs", ["status", "created_at"])
    op.create_index("jobs_by_end", "jobs", ["finished_at"])
    op.create_table(
        "events",
        sa.Column("job_id", sa.String(64), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
    )
    op.create_table(
        "stage_replicas",
        sa.Column("replica", sa.String(128), primary_key=True),
        sa.Column("stage", sa.String(32), nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("restarting", sa.Boolean, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
    )
