"""From a checked request to a job: admission, the picture into storage, the row into the store."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets

from deployments.contracts import GenerationOptions, Mode
from deployments.errors import InputError, StageUnavailable, SyncHumanError
from serve_app.ingress.intake import Picture
from serve_app.ingress.room import Room
from serve_app.jobs.protocol import JobRequest, JobView, ServiceState
from serve_app.options import options_as_json

# A stage in one of these states will not come by itself; in the others the runner's bounds decide.
CAN_NOT_RUN = ("idle", "failed", "absent")
MAX_KEY = 200


async def submit(
    picture: Picture,
    options: GenerationOptions,
    room: Room,
    *,
    idempotency_key: str | None = None,
    owner: str | None = None,
) -> JobView:
    """Store the picture, then commit the job; a refused job leaves nothing behind.

    :raises StageUnavailable: ``stage1_unavailable`` or ``stage2_unavailable``, known beforehand.
    :raises ServiceError: ``queue_full``, ``storage_unavailable``, ``store_unavailable`` ...
    """
    admit(options.mode, await room.service.state())
    job_id = secrets.token_hex(16)
    stored = options_as_json(options)
    request = JobRequest(
        job_id=job_id,
        input_path=f"{job_id}/input{picture.suffix}",
        options=stored,
        digest=hashlib.sha256(picture.data + json.dumps(stored).encode()).hexdigest(),
        idempotency_key=checked_key(idempotency_key),
        owner=owner,
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
