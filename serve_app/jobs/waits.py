"""How long a job waits for a stage to take it, by mode and state (the table of serving.md 4).

Serve itself puts no bound on "no replica can take this", so the runner does.
"""

from __future__ import annotations

from deployments.contracts import Mode
from serve_app.jobs.protocol import StageState
from serve_app.settings import LiveArgs


def allowed_wait(stage: str, state: StageState, mode: Mode, live: LiveArgs) -> float:
    """Seconds that a stage may stay in this state before the job stops waiting for it."""
    if state.state == "up":
        return live.queue_wait_s  # it is only busy
    if state.state in ("starting", "zero"):
        can_do_without = stage == "stage2" and mode is Mode.GRACEFUL_FALLBACK
        return live.fallback_start_wait_s if can_do_without else live.start_wait_s
    if state.state == "unknown":
        return live.unknown_wait_s
    return 0.0  # idle, failed, absent: nothing will change by itself
