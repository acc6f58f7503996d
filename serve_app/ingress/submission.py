"""From a checked request to a job: admission, the picture into storage, the row into the store."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import Request

from deployments.contracts import GenerationOptions, Mode
from deployments.errors import InputError, StageUnavailable, SyncHumanError
from serve_app.address_guard import check_reachable, check_url
from serve_app.ingress.intake import Picture
from serve_app.ingress.problems import owner_of, request_id_of
from serve_app.ingress.room import Room
from serve_app.ingress.schemas import ExportJson
from serve_app.jobs.protocol import (
    JobKind,
    JobRequest,
    JobStatus,
    JobTerms,
    JobView,
    ServiceState,
)
from serve_app.options import options_as_json, options_from_json
from serve_app.terms import RequestTerms

# A stage in one of these states will not come by itself; in the others the runner's bounds decide.
CAN_NOT_RUN = ("idle", "failed", "absent")
MAX_KEY = 200


@dataclass(frozen=True)
class Sender:
    """Who sends a request, and what it is known by."""

    owner: str | None = None
    request_id: str | None = None
    idempotency_key: str | None = None
    traceparent: str | None = None
    jobs_at_once: int | None = None

    @classmethod
    def of(cls, request: Request, idempotency_key: str | None) -> Sender:
        """:raises InputError: for an ``Idempotency-Key`` that no store can hold."""
        state = request.scope.get("state", {})
        return cls(
            owner_of(request),
            request_id_of(request),
            checked_key(idempotency_key),
            state.get("traceparent") or None,
            state.get("jobs_at_once"),
        )


async def submit(
    picture: Picture,
    options: GenerationOptions,
    terms: RequestTerms,
    room: Room,
    sender: Sender,
) -> JobView:
    """Store the picture, then commit the job; a refused job leaves nothing behind.

    :raises StageUnavailable: ``stage1_unavailable`` or ``stage2_unavailable``, known beforehand.
    :raises InputError: ``options_invalid`` for terms that the service does not allow.
    :raises ServiceError: ``queue_full``, ``storage_unavailable``, ``store_unavailable`` ...
    """
    resolved = await _resolved(terms, room)
    admit(options.mode, await room.service.state())
    job_id = secrets.token_hex(16)
    stored = options_as_json(options)
    request = JobRequest(
        job_id=job_id,
        input_path=f"{job_id}/input{picture.suffix}",
        options=stored,
        digest=_digest(picture.data, stored, terms),
        terms=resolved,
        **asdict(sender),
    )
    await asyncio.to_thread(room.storage.write, request.input_path, picture.data)
    try:
        view = await room.service.submit(request)
    except BaseException:
        await _forget(room, job_id)
        raise
    if view.id != job_id:  # the key had named a job before: this picture is not needed again
        await _forget(room, job_id)
    return view


async def submit_export(parent: JobView, asked: ExportJson, room: Room, sender: Sender) -> JobView:
    """Commit an export of a finished job. Nothing is stored: its parent has everything.

    :raises InputError: ``options_invalid`` for what this service, or this parent, can not make.
    :raises ServiceError: ``not_finished``, ``no_result``, ``not_exportable``, ``queue_full`` ...
    """
    options = asked.applied_to(options_from_json(parent.options), room.settings)
    has_mesh = parent.stage2 is not None and parent.stage2.status == "completed"
    if options.formats and parent.status is JobStatus.SUCCEEDED and not has_mesh:
        raise InputError(
            f"formats are made of Stage 2's surface, and job {parent.id} has none. Leave formats "
            "out to get another preview.glb",
            code="options_invalid",
        )
    stored = options_as_json(options)
    request = JobRequest(
        job_id=secrets.token_hex(16),
        kind=JobKind.EXPORT,
        parent_id=parent.id,
        options=stored,
        digest=_digest(parent.id.encode(), stored, asked),
        terms=await _resolved(asked, room),
        **asdict(sender),
    )
    return await room.service.submit(request)


async def _resolved(terms: RequestTerms, room: Room) -> JobTerms:
    resolved = terms.resolve_terms(room.settings)
    if resolved.webhook_url is not None:
        check_url(resolved.webhook_url, field="webhook_url")
        if room.settings.webhook_secret is None:
            raise InputError(
                "webhook_url is given, but this service has no secret to sign webhooks with. Leave "
                "it out and watch the job's events, or ask the operator to set webhook_secret",
                code="webhooks_off",
            )
        await check_reachable(
            resolved.webhook_url,
            room.resolver,
            allow_private=room.settings.allow_private_urls,
            field="webhook_url",
        )
    return resolved


def _digest(source: bytes, options: dict[str, Any], terms: RequestTerms) -> str:
    """The same for two requests exactly when they ask for the same.

    Of the terms only what the request says: the service's own may change between two tries.
    """
    asked = json.dumps([options, terms.asked_terms()], sort_keys=True)
    return hashlib.sha256(source + asked.encode()).hexdigest()


def admit(mode: Mode, state: ServiceState) -> None:
    """Refuse at once what is known to be impossible (serving.md section 4, Modes)."""
    needed = ("stage1", "stage2") if mode is Mode.OFFICIAL else ("stage1",)
    for name in needed:
        stage = state.stages.get(name)
        if stage is not None and stage.state not in CAN_NOT_RUN:
            continue
        reason = (stage.reason if stage else None) or "it is not part of this service"
        number = name[-1]
        remedy = (
            "Ask again later, or send graceful_fallback=true or stage1_only=true"
            if name == "stage2"
            else "Ask again later"
        )
        raise StageUnavailable(
            f"Stage {number} can not run: {reason}. {remedy}",
            code=f"{name}_unavailable",
            reason=reason,
        )


def checked_key(key: str | None) -> str | None:
    """An ``Idempotency-Key`` that the store can hold."""
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise InputError(
            f"Idempotency-Key has {len(key)} characters; it must be 1 to {MAX_KEY} printable "
            "ones. Send a UUID",
            code="options_invalid",
        )
    return key


async def _forget(room: Room, job_id: str) -> None:
    with contextlib.suppress(SyncHumanError):
        await asyncio.to_thread(room.storage.delete, job_id)
