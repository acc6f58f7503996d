"""Every metric of the service: its name, kind, unit, labels and meaning. No other module names one.

Ray puts ``ray_`` in front of a name and adds ``application``, ``deployment`` and ``replica``, so
these are no labels here. A label's values are few and known beforehand: never a job, a file, a
message or a key. OPERATIONS.md has the table of this module; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(str, Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """One metric. ``buckets`` are the upper bounds of a histogram, in its unit."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()

    @property
    def exposed(self) -> tuple[str, ...]:
        """The names of its series at a node's ``/metrics``."""
        name = f"ray_{self.name}"
        if self.kind is Kind.HISTOGRAM:
            return f"{name}_bucket", f"{name}_count", f"{name}_sum"
        return (name,)


LONG = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
SHORT = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 30.0)

# HTTP, told by Gateway

REQUESTS = Metric(
    "synchuman_requests_total",
    Kind.COUNTER,
    "requests",
    ("mode", "outcome"),
    "submissions (POST) that were answered: outcome ok, accepted, refused (the client has to "
    "change something), limited (429), unavailable (503), failed (other 5xx), left (the client "
    "did not wait); mode none where the request was refused before its mode was known",
)

# Jobs and their queue, told by Jobs

JOBS = Metric(
    "synchuman_jobs_total",
    Kind.COUNTER,
    "jobs",
    ("outcome",),
    "jobs that have ended: outcome succeeded, fallback (Stage 1 in place of what was asked), "
    "failed, cancelled",
)
JOBS_QUEUED = Metric(
    "synchuman_jobs_queued",
    Kind.GAUGE,
    "jobs",
    (),
    "jobs that wait for a runner; every Jobs replica tells the whole table, so take the maximum",
)
JOBS_RUNNING = Metric(
    "synchuman_jobs_running", Kind.GAUGE, "jobs", (), "jobs with a runner, told like the queue"
)
QUEUE_WAIT = Metric(
    "synchuman_queue_wait_seconds",
    Kind.HISTOGRAM,
    "seconds",
    (),
    "from a job's submission to its first claim",
    LONG,
)
FALLBACKS = Metric(
    "synchuman_fallback_total",
    Kind.COUNTER,
    "jobs",
    ("reason",),
    "jobs that got Stage 1 in place of Stage 2: reason absent, failed, starting, zero, idle, "
    "unknown (the stage's state), busy, lost, out_of_memory, or the code of Stage 2's error",
)
RETRIES = Metric(
    "synchuman_retries_total",
    Kind.COUNTER,
    "attempts",
    ("cause",),
    "further attempts of jobs: cause is the stage and how it ended, such as stage1_lost, "
    "stage2_failed, stage2_out_of_memory",
)
STAGE_REPLICAS = Metric(
    "synchuman_stage_replicas",
    Kind.GAUGE,
    "replicas",
    ("stage",),
    "replicas of a stage that can work, by their heartbeats; told like the queue",
)
WEBHOOKS = Metric(
    "synchuman_webhook_deliveries_total",
    Kind.COUNTER,
    "deliveries",
    ("outcome",),
    "tries to deliver a webhook: outcome delivered, retry (it will be tried again), given_up",
)

# Stages, told by their replicas

STAGE_SECONDS = Metric(
    "synchuman_stage_seconds",
    Kind.HISTOGRAM,
    "seconds",
    ("stage", "phase"),
    "time of a job in a stage: phase run (work of a run that completed, told by the replica) or "
    "wait (until a replica began, told by Jobs)",
    LONG,
)
STAGE_RUNS = Metric(
    "synchuman_stage_runs_total",
    Kind.COUNTER,
    "runs",
    ("stage", "outcome"),
    "runs of a stage that have ended: outcome completed, failed, cancelled",
)
STEP_SECONDS = Metric(
    "synchuman_step_seconds",
    Kind.HISTOGRAM,
    "seconds",
    (),
    "one sampling step; the rate of its count, by deployment, is steps a second",
    SHORT,
)
MEMORY_USED = Metric(
    "synchuman_device_memory_used_bytes",
    Kind.GAUGE,
    "bytes",
    ("stage",),
    "memory that a replica holds: of its card (what the allocator reserved), or on the CPU of its "
    "process",
)
MEMORY_TOTAL = Metric(
    "synchuman_device_memory_total_bytes",
    Kind.GAUGE,
    "bytes",
    ("stage",),
    "memory of that card, or of the machine",
)
COLD_START = Metric(
    "synchuman_cold_start_seconds",
    Kind.HISTOGRAM,
    "seconds",
    ("stage",),
    "construction of a replica, weights included; its count is the number of starts",
    LONG,
)

CATALOGUE: tuple[Metric, ...] = (
    REQUESTS,
    JOBS,
    JOBS_QUEUED,
    JOBS_RUNNING,
    QUEUE_WAIT,
    FALLBACKS,
    RETRIES,
    STAGE_REPLICAS,
    WEBHOOKS,
    STAGE_SECONDS,
    STAGE_RUNS,
    STEP_SECONDS,
    MEMORY_USED,
    MEMORY_TOTAL,
    COLD_START,
)
