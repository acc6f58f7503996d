"""What an export is made from: the stored results of the job that it names, or of that job's own.

No picture and no sampling: the parent's manifest (checkpoint, hash of the picture), its Stage 1
result, and Stage 2's surface where Stage 2 has run.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from deployments.errors import ServiceError
from serve_app.jobs.protocol import JobKind, JobStatus
from serve_app.jobs.rows import expired, has_expired
from serve_app.jobs.tables import jobs
from serve_app.manifest import NAME as MANIFEST


def export_source(connection: Connection, parent: Row[Any], now: float) -> dict[str, Any]:
    """Columns of an export's row, for the caller's transaction.

    An export of an export goes back to the job that has the stored results.

    :raises ServiceError: ``job_expired``; ``not_finished`` or ``no_result`` for a parent that did
        not succeed; ``not_exportable`` where nothing was stored.
    """
    if has_expired(parent, now):
        raise expired(parent)
    if parent.kind == JobKind.EXPORT.value:
        root = connection.execute(
            select(jobs).where(jobs.c.id == parent.parent_id).with_for_update()
        ).first()
        if root is None or has_expired(root, now):
            raise expired(root or parent)
        parent = root
    if parent.status != JobStatus.SUCCEEDED.value:
        raise ServiceError(
            f"job {parent.id} is {parent.status}; exports are made of jobs that succeeded. "
            f"GET /jobs/{parent.id} tells more",
            code="no_result" if JobStatus(parent.status).final else "not_finished",
        )
    ran_stage2 = parent.stage2 is not None and parent.stage2["status"] == "completed"
    if parent.stage1_result is None or (ran_stage2 and parent.stage2_result is None):
        raise ServiceError(
            f"job {parent.id} was made without storing what exports need (setting exports). "
            "Send the picture again",
            code="not_exportable",
        )
    return {
        "parent_id": parent.id,
        "input_path": parent.files[MANIFEST],
        "stage1_result": parent.stage1_result,
        "stage2_result": parent.stage2_result if ran_stage2 else None,
    }
