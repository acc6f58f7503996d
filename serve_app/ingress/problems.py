"""RFC 9457 problem details, and the one table from an error's code to its HTTP status.

Every failure of the API has the media type ``application/problem+json`` and these members: ``type``
(a URN of the code), ``title``, ``status``, ``detail`` (the message: value, rule, remedy), ``code``,
``request_id``, ``job_id`` where there is a job, and what the error itself knows (``value``,
``rule``, ``remedy``, ``reason`` ...). Stack traces stay in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import SyncHumanError
from serve_app.jobs.protocol import JobFailure

log = logging.getLogger("ray.serve.synchuman.ingress")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 30

STATUS_BY_CODE: Mapping[str, int] = {
    # what the client has to change
    "invalid_input": 400,
    "image_missing": 400,
    "image_conflict": 400,
    "image_empty": 400,
    "image_format": 400,
    "image_truncated": 400,
    "image_too_small": 400,
    "image_pixels": 413,
    "no_subject": 400,
    "subject_too_small": 400,
    "background_not_removed": 400,
    "url_invalid": 400,
    "url_forbidden": 400,
    "url_unreachable": 400,
    "url_timeout": 400,
    "upload_too_large": 413,
    "url_too_large": 413,
    "options_invalid": 422,
    "cursor_invalid": 400,
    "mode_unavailable": 422,
    "webhooks_off": 422,
    "idempotency_conflict": 409,
    "job_exists": 409,
    "not_found": 404,
    "job_expired": 410,
    "key_missing": 401,
    "key_unknown": 401,
    "keys_unreadable": 503,
    "cancelled": 409,
    "not_finished": 409,
    "no_result": 409,
    "not_exportable": 409,
    "queue_full": 429,
    "too_many_jobs": 429,
    "rate_limited": 429,
    "too_busy": 503,
    # what the service can not do now
    "stage_unavailable": 503,
    "stage1_unavailable": 503,
    "stage2_unavailable": 503,
    "stage1_failed": 503,
    "stage2_failed": 503,
    "store_unavailable": 503,
    "storage_unavailable": 503,
    "shutting_down": 503,
    "checkpoint_invalid": 503,
    "backend_unavailable": 503,
    "kaolin_unavailable": 503,
    "matting_unavailable": 503,
    # what went wrong on the way
    "generation_failed": 500,
    "artifact_damaged": 500,
    "service_error": 500,
    "internal_error": 500,
}

STATUS_BY_KIND: Mapping[str, int] = {
    "InputError": 400,
    "CheckpointError": 503,
    "BackendError": 503,
    "GenerationError": 500,
    "StageUnavailable": 503,
    "Cancelled": 409,
    "ServiceError": 500,
}

TITLES: Mapping[int, str] = {
    400: "The request can not be served as it is",
    401: "Who are you",
    404: "Not found",
    405: "Method not allowed",
    409: "In conflict with the job's state",
    410: "No longer there",
    413: "Too large",
    422: "An option is out of its range",
    429: "Too many requests",
    500: "Something went wrong in the service",
    503: "The service can not do this now",
}


class Problem(BaseModel):
    """An RFC 9457 problem. Members beyond these depend on the code."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:synchuman:problem:options_invalid"])
    title: str = Field(examples=["An option is out of its range"])
    status: int = Field(examples=[422])
    detail: str = Field(
        examples=["stage1_steps is 500; it must be 30 to 100. Send a value in that range"]
    )
    code: str = Field(description="stable, for programs", examples=["options_invalid"])
    request_id: str | None = None
    job_id: str | None = None


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` argument of a route for these statuses."""
    return {
        status: {
            "description": TITLES[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def problem_response(
    status: int,
    code: str,
    detail: str,
    *,
    request_id: str | None = None,
    job_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> JSONResponse:
    """One problem as a response; 429 and 503 always say when to come back."""
    sent = dict(headers or {})
    if status in (429, 503):
        retry = members.pop("retry_after", None) or RETRY_AFTER_S
        sent.setdefault("Retry-After", str(max(1, int(retry))))
    if job_id is not None:
        sent.setdefault("X-Job-Id", job_id)
    own = {
        "type": f"urn:synchuman:problem:{code}",
        "title": TITLES.get(status, "Request failed"),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        "job_id": job_id,
    }
    body = {**{name: value for name, value in own.items() if value}, **_plain(members)}
    return JSONResponse(body, status, headers=sent, media_type=MEDIA_TYPE)


def status_of(code: str, kind: str | None) -> int:
    """The HTTP status of an error: by its code, else by the name of its class."""
    return STATUS_BY_CODE.get(code) or STATUS_BY_KIND.get(kind or "", 500)


def failure_response(
    failure: JobFailure, job_id: str, request_id: str | None = None
) -> JSONResponse:
    """The answer to a client that waited for a job which failed."""
    return problem_response(
        status_of(failure.code, failure.kind),
        failure.code,
        failure.message,
        request_id=request_id,
        job_id=job_id,
        **_foreign(failure.detail),
    )


def request_id_of(request: Request) -> str | None:
    """The id that the outermost middleware gave this request."""
    found = request.scope.get("state", {}).get("request_id")
    return found if isinstance(found, str) else None


def owner_of(request: Request) -> str | None:
    """The hash of the API key that sent this request, where the service has keys."""
    found = request.scope.get("state", {}).get("owner")
    return found if isinstance(found, str) else None


def install(app: FastAPI) -> None:
    """Answer every failure that an application foresees with a problem."""

    async def on_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SyncHumanError)
        status = status_of(error.code, type(error).__name__)
        if status >= 500:
            log.warning("%s: %s", error.code, error.message)
        return problem_response(
            status,
            error.code,
            error.message,
            request_id=request_id_of(request),
            **_foreign(error.detail),
        )

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        faults = [_fault(one) for one in error.errors()]
        return problem_response(
            422,
            "options_invalid",
            "; ".join(fault["message"] for fault in faults),
            request_id=request_id_of(request),
            field=faults[0]["field"],
            value=faults[0]["value"],
            rule=faults[0]["rule"],
            remedy=faults[0]["remedy"],
            errors=faults,
        )

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed", 413: "upload_too_large"}
        return problem_response(
            error.status_code,
            codes.get(error.status_code, "invalid_input"),
            str(error.detail),
            request_id=request_id_of(request),
            headers=error.headers,
        )

    app.add_exception_handler(SyncHumanError, on_error)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)


class UnexpectedErrors:
    """ASGI middleware: what nobody foresaw goes to the log, and to the client as a bare 500.

    Inside the middleware that adds headers, unlike Starlette's own handler for ``Exception``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            if started or scope["type"] != "http":
                raise  # half an answer is out: only a broken connection tells the client
            log.exception("request failed unexpectedly")
            response = problem_response(
                500,
                "internal_error",
                "The service failed in a way it did not expect. Its log has the cause under this "
                "request id; repeat the request, and report it when it comes back",
                request_id=scope.get("state", {}).get("request_id"),
            )
            await response(scope, receive, send)


def _fault(error: Mapping[str, Any]) -> dict[str, str]:
    """One validation error in the house form: field, value, rule, remedy."""
    path = [str(part) for part in error["loc"] if part not in ("body", "query", "path")]
    field = ".".join(path) or "body"
    value = str(error.get("input"))[:80]
    expected = error.get("ctx", {}).get("expected")
    if error["type"] == "extra_forbidden":
        rule, remedy = "this API has no such field", "Leave it out; /docs lists the fields"
    elif expected is not None:
        rule, remedy = f"must be {expected}", "Send one of these"
    else:
        text = str(error["msg"]).removeprefix("Value error, ")
        rule, _, remedy = text.replace("Input should", "must").partition(". ")
        remedy = remedy or "/docs describes the field"
    message = f"{field} is {value!r}: {rule}. {remedy}"
    return {"field": field, "value": value, "rule": rule, "remedy": remedy, "message": message}


def _foreign(detail: Mapping[str, Any]) -> dict[str, Any]:
    """An error's own facts, without names that the problem itself uses."""
    own = {"type", "title", "status", "detail", "code", "request_id", "job_id", "headers"}
    return {name: value for name, value in detail.items() if name not in own}


def _plain(members: Mapping[str, Any]) -> dict[str, Any]:
    """Only values that JSON knows; anything else as its text."""
    return {
        name: value
        if isinstance(value, str | int | float | bool | list | dict | type(None))
        else str(value)
        for name, value in members.items()
    }
