"""How a request wants its job handled: its place in line, how long it is kept, who is told.

Beside the options of options.py, which say what the job makes. Two requests that differ in terms
are two requests to an ``Idempotency-Key``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from deployments.errors import InputError
from serve_app.jobs.protocol import WEBHOOK_DEFAULT, JobTerms
from serve_app.options import Blank, Range, as_list
from serve_app.settings import PRIORITIES, LiveArgs

KEEP_FOR_S = (60.0, 10 * 365 * 86_400.0)  # a client needs a minute to fetch what it asked for

WebhookEvent = Literal["queued", "started", "stage", "retry", "result", "failed", "cancelled"]


class RequestTerms(BaseModel):
    """Terms of one request. Everything may be left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    priority: Annotated[Annotated[int, Range(*PRIORITIES)] | None, Blank] = Field(
        None, description="higher comes first, up to the service's max_priority; 0 by default"
    )
    keep_for: Annotated[Annotated[float, Range(*KEEP_FOR_S)] | None, Blank] = Field(
        None,
        description="seconds that the result is kept after the job's end; the service's by default",
        examples=[3600],
    )
    keep_input: Annotated[bool | None, Blank] = Field(
        None, description="false: the picture goes when the job has ended; it is in no result"
    )
    webhook_url: Annotated[str | None, Blank] = Field(
        None,
        max_length=2048,
        description="public http(s) address that is told of the job by signed POST requests",
        examples=["https://example.com/hooks/synchuman"],
    )
    webhook_events: Annotated[list[WebhookEvent], BeforeValidator(as_list)] = Field(
        default_factory=list,
        description="what it is told: queued, started, stage, retry, result, failed, cancelled; "
        "the last three by default",
    )

    def resolve_terms(self, service: LiveArgs) -> JobTerms:
        """These terms with the service's values where nothing was asked for.

        :raises InputError: ``options_invalid`` for more than the service allows, and for events
            without an address to tell them to.
        """
        _check_limit("priority", self.priority, service.max_priority)
        _check_limit("keep_for", self.keep_for, service.max_keep_for_s)
        if self.webhook_events and self.webhook_url is None:
            raise InputError(
                "webhook_events has no webhook_url to tell them to. Send both, or neither",
                code="options_invalid",
            )
        return JobTerms(
            priority=min(0, service.max_priority) if self.priority is None else self.priority,
            keep_for=service.keep_for_s if self.keep_for is None else self.keep_for,
            keep_input=service.keep_input if self.keep_input is None else self.keep_input,
            webhook_url=self.webhook_url,
            webhook_events=tuple(dict.fromkeys(self.webhook_events)) or WEBHOOK_DEFAULT,
        )

    def asked_terms(self) -> dict[str, Any]:
        """What the request itself says, for the digest of an ``Idempotency-Key``."""
        names = set(RequestTerms.model_fields)
        return self.model_dump(mode="json", include=names, exclude_defaults=True)


def _check_limit(name: str, value: float | None, limit: float | None) -> None:
    if value is not None and limit is not None and value > limit:
        raise InputError(
            f"{name} is {value:.10g}: must be at most {limit:.10g} on this service. "
            "Send less, or leave it out",
            code="options_invalid",
            value=value,
        )
