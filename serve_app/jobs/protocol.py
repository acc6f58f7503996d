"""What the ingress and the jobs room say to each other: records, events and the service's face.

The ingress is written against :class:`JobService`; the Ray deployment ``Jobs`` and the in-process
service of the tests both implement it, so routes never know which one they talk to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import Enum
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from deployments.contracts import Mode


class JobStatus(str, Enum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class JobKind(str, Enum):
    GENERATE = "generate"  # a picture through the stages
    EXPORT = "export"  # other files from the stored results of a job


# What a webhook may be told, and what it is told unless the request chooses. Steps are left out:
# a job has a hundred of them.
WEBHOOK_EVENTS = ("queued", "started", "stage", "retry", "result", "failed", "cancelled")
WEBHOOK_DEFAULT = ("result", "failed", "cancelled")


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class JobTerms(Record):
    """How a job is handled. What it makes is in its options."""

    priority: int = Field(0, description="higher comes first")
    keep_for: float | None = Field(None, description="seconds from its end to its expiry")
    keep_input: bool = Field(True, description="False: the picture goes when the job has ended")
    webhook_url: str | None = None
    webhook_events: tuple[str, ...] = WEBHOOK_DEFAULT


class JobRequest(Record):
    """An accepted request. Its picture is in storage before this is submitted."""

    job_id: str
    kind: JobKind = JobKind.GENERATE
    parent_id: str | None = Field(None, description="of an export: the job it is made from")
    input_path: str = Field(
        "", description="storage path of the picture's bytes, below the job; empty for an export"
    )
    options: dict[str, Any] = Field(description="GenerationOptions as JSON")
    idempotency_key: str | None = None
    digest: str | None = Field(
        None, description="hash of picture and options: one Idempotency-Key, one request"
    )
    owner: str | None = Field(None, description="hash of the API key that submitted it")
    terms: JobTerms = JobTerms()
    jobs_at_once: int | None = Field(None, description="unfinished jobs that the key may have")
    request_id: str | None = Field(None, max_length=128, description="X-Request-ID of the request")
    traceparent: str | None = Field(None, max_length=64, description="its W3C trace context")


class StageReport(Record):
    """One stage's part of a finished job, in the words of unified_api.md."""

    status: str = Field(description="completed, skipped or failed")
    reason: str | None = None
    directory: str | None = Field(None, description="storage path of the stage's files")
    files: tuple[str, ...] = ()


class JobFailure(Record):
    """Why a job failed: a code of the error tree with its message."""

    code: str
    message: str
    kind: str | None = Field(None, description="class of deployments/errors.py, e.g. InputError")
    detail: dict[str, Any] = Field(default_factory=dict)


class WebhookDelivery(Record):
    """One message to a job's webhook. Neither delivered nor with a next_at: given up."""

    id: str = Field(description="webhook-id of every attempt")
    event: str
    created_at: float
    attempts: int = 0
    delivered_at: float | None = None
    next_at: float | None = Field(None, description="when it is tried again")
    last_status: int | None = Field(None, description="of the HTTP answer")
    last_error: str | None = None


class WebhookReport(Record):
    """A job's webhook and what it has been told."""

    url: str
    events: tuple[str, ...]
    deliveries: tuple[WebhookDelivery, ...] = ()


class JobView(Record):
    """A job as its owner sees it."""

    id: str
    owner: str = Field("", description="hash of the API key that submitted it, empty without keys")
    kind: JobKind = JobKind.GENERATE
    parent_id: str | None = None
    status: JobStatus
    mode: Mode
    options: dict[str, Any]
    priority: int = 0
    stage: str | None = None
    step: int = 0
    steps: int = 0
    attempt: int = 0
    queue_position: int | None = Field(None, description="1 is next, while queued")
    cancel_requested: bool = False
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = Field(None, description="from then on it is gone; None: never")
    request_id: str | None = None
    warnings: tuple[str, ...] = ()
    stage1: StageReport | None = None
    stage2: StageReport | None = None
    files: dict[str, str] = Field(
        default_factory=dict, description="name inside the ZIP -> storage path"
    )
    failure: JobFailure | None = None
    webhook: WebhookReport | None = Field(None, description="only where one job was asked for")


class JobQuery(Record):
    """Which jobs to list, newest first."""

    owner: str | None = Field(None, description="only jobs of this API key; None: of everybody")
    statuses: tuple[JobStatus, ...] = Field((), description="empty: all")
    created_after: float | None = None
    created_before: float | None = None
    cursor: str | None = Field(None, description="JobPage.next of the page before")
    limit: int = 20


class JobPage(Record):
    """One page of a list. ``next`` is None on the last."""

    jobs: tuple[JobView, ...]
    next: str | None = None


class JobEvent(Record):
    """Something that happened to a job. ``seq`` rises by one and starts at 1."""

    seq: int
    time: float
    kind: str = Field(description="queued, started, stage, step, retry, result, failed, cancelled")
    body: dict[str, Any] = Field(default_factory=dict)


class ReplicaFacts(Record):
    """One stage replica's last heartbeat."""

    stage: str
    replica: str
    device: str
    memory_total: int | None = Field(None, description="bytes on the device")
    memory_used: int | None = None
    checkpoint: str
    backends: dict[str, str] = Field(default_factory=dict)
    busy: bool = False
    step_seconds: float | None = None
    reason: str | None = Field(None, description="why it can not work, when it can not")
    seen_at: float


class StageState(Record):
    """A stage as the registry and the status monitor know it (serving.md section 4)."""

    state: str = Field(description="up, idle, starting, zero, failed, absent or unknown")
    reason: str | None = None
    replicas: tuple[ReplicaFacts, ...] = ()

    @property
    def available(self) -> bool:
        return self.state in ("up", "zero", "starting")


class ServiceState(Record):
    """What /health and /info answer from, without asking any stage."""

    mode: Mode
    stages: dict[str, StageState]
    queued: int
    running: int
    seconds_by_stage: dict[str, float] = Field(
        default_factory=dict, description="median seconds of recent runs"
    )


class KeyAllowance(Record):
    """What is left to an API key in this minute."""

    allowed: bool
    limit: int
    remaining: int
    reset_s: int = Field(description="seconds until there is more")


class JobService(Protocol):
    """The jobs room as the ingress sees it. Failures are of the error tree.

    Where an ``owner`` is given, jobs of others are ``not_found``. What has expired is
    ``job_expired``, to its owner.
    """

    async def submit(self, request: JobRequest) -> JobView: ...

    async def get(self, job_id: str, owner: str | None = None) -> JobView: ...

    async def page(self, query: JobQuery) -> JobPage: ...

    def events(self, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        """Events with ``seq > after``, past and future; ends after the job's final event."""
        ...

    async def cancel(self, job_id: str, owner: str | None = None) -> JobView: ...

    async def remove(self, job_id: str, owner: str | None = None) -> JobView:
        """Cancel a job that has not ended; its files go when it has, and so does its result.

        :returns: the job before its removal: final when everything is gone already.
        """
        ...

    async def use_key(self, owner: str, per_minute: int) -> KeyAllowance:
        """Count a submission of an API key, unless its minute is used up."""
        ...

    async def state(self) -> ServiceState: ...
