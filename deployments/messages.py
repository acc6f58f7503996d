"""What a stage says to whoever drives it, item by item, and what it tells the jobs room.

A stage is an async generator. Its items come in this order:

    Unavailable                                  it can not work; nothing follows
    Accepted  Started  Step*  Finished | Failed  one run

``Accepted`` proves that a replica took the request, so the wait for a replica and the run on it
have bounds of their own. Between ``Accepted`` and ``Started`` the replica finishes its last run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deployments.contracts import Progress


@dataclass(frozen=True)
class WorkOrder:
    """Which job a run is for. A run whose fence is no longer the job's own stops by itself."""

    job: str
    fence: int
    lease_s: float = 30.0  # how long to go on when the jobs room does not answer
    attempt: int = 1
    request_id: str = ""  # of the HTTP request behind the job, for logs
    traceparent: str = ""  # W3C trace context that the run belongs to


@dataclass(frozen=True)
class Unavailable:
    """The replica can not work. ``temporary``: a fresh process is on its way."""

    reason: str
    temporary: bool = False


@dataclass(frozen=True)
class Accepted:
    """A replica holds the request."""

    replica: str


@dataclass(frozen=True)
class Started:
    """The run began: from here on it counts as an attempt."""


@dataclass(frozen=True)
class Step:
    progress: Progress


@dataclass(frozen=True)
class Finished:
    """The run's result, a contract of deployments/contracts.py (GLB bytes for the preview)."""

    value: Any
    seconds: float
    checkpoint: str
    backends: Mapping[str, str] = field(default_factory=dict)  # what -> the library that did it


@dataclass(frozen=True)
class Failed:
    """The run raised. ``retryable``: another replica, or a later try, may well succeed."""

    code: str
    message: str
    retryable: bool
    kind: str = "GenerationError"  # class of deployments/errors.py
    detail: dict[str, Any] = field(default_factory=dict)


StageItem = Unavailable | Accepted | Started | Step | Finished | Failed


@dataclass(frozen=True)
class Heartbeat:
    """What a replica is and does, told to the jobs room every few seconds.

    ``reason`` says why it can not work, ``restarting`` that this will end by itself. Memory is in
    bytes on the replica's device, None where that means nothing.
    """

    stage: str
    replica: str
    device: str
    checkpoint: str
    backends: dict[str, str]
    busy: bool
    step_seconds: float | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    reason: str | None = None
    restarting: bool = False
