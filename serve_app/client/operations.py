"""What a client can do, each thing once: both clients have these as their methods."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic_core import to_jsonable_python

from serve_app.client.download import download as download_files
from serve_app.client.effects import Block, Call, Emit, Steps, listening
from serve_app.client.errors import JobFailed, WaitedTooLong
from serve_app.client.events import follow
from serve_app.client.exchange import Patience, exchange, parsed, without_none
from serve_app.ingress.schemas import Health, Info, JobAnswer, JobList
from serve_app.jobs.protocol import JobEvent, JobStatus
from serve_app.options import FinishingOptions, RequestOptions
from serve_app.terms import RequestTerms

Options = RequestOptions | Mapping[str, Any]
Terms = RequestTerms | Mapping[str, Any]


@dataclass(frozen=True)
class Core:
    """What every operation of one client shares."""

    patience: Patience = field(default_factory=Patience)
    clock: Callable[[], float] = time.monotonic


def submit(
    core: Core,
    picture: Path | str | bytes,
    options: Options | None = None,
    *,
    idempotency_key: str | None = None,
    terms: Terms | None = None,
) -> Steps[JobAnswer]:
    """Send a picture and return its job, queued.

    :param picture: a file, a file's bytes, or an http(s) address that the service fetches.
    :param options: as in API.md; what is left out is the service's choice.
    :param idempotency_key: the same key with the same picture and options finds the same job. A
        random one by default, so that a lost answer never makes two jobs.
    :param terms: priority, expiry and webhook of the job.
    :raises OSError: when the file can not be read.
    :raises ClientError: see errors.py.
    """
    fields: dict[str, Any] = {**_plain(options), **_plain(terms)}
    if isinstance(picture, str) and picture.startswith(("http://", "https://")):
        body: dict[str, Any] = {"json": {**fields, "image_url": picture}}
    else:
        if isinstance(picture, bytes):
            name, data = "picture", picture
        else:
            path = Path(picture)
            name, data = path.name, (yield Block(path.read_bytes))
        body = {"data": fields, "files": {"image": (name, data)}}
    headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
    call = Call("POST", "/jobs", headers, body, read_timeout_s=120.0)
    return parsed(JobAnswer, (yield from exchange(call, core.patience)))


def job(core: Core, job_id: str) -> Steps[JobAnswer]:
    """A job as it is now.

    :raises NotThere: ``not_found``, ``expired``.
    """
    return parsed(
        JobAnswer, (yield from exchange(Call("GET", f"/jobs/{quote(job_id)}"), core.patience))
    )


def jobs(
    core: Core,
    *,
    status: Sequence[JobStatus | str] = (),
    created_after: float | None = None,
    created_before: float | None = None,
    page_size: int = 100,
) -> Steps[None]:
    """The key's jobs, newest first; further pages are fetched as they are needed.

    :param status: only jobs of these; empty: of all.
    :param created_after: seconds since 1970, as ``created_before``.
    """
    query: dict[str, Any] = without_none(
        {
            "status": [JobStatus(one).value for one in status] or None,
            "created_after": created_after,
            "created_before": created_before,
            "limit": page_size,
        }
    )
    while True:
        call = Call("GET", "/jobs", body={"params": query})
        page = parsed(JobList, (yield from exchange(call, core.patience)))
        for one in page.jobs:
            yield Emit(one)
        if page.next_cursor is None:
            return
        query["cursor"] = page.next_cursor


def events(core: Core, job_id: str, *, after: int = 0) -> Steps[None]:
    """A job's events (``JobEvent``) with ``seq > after``, until the job has ended.

    A connection that breaks is made again where it broke: every event comes once, in order.
    """
    yield from follow(quote(job_id), core.patience, after)


def wait(
    core: Core,
    job_id: str,
    *,
    timeout_s: float | None = None,
    on_event: Callable[[JobEvent], None] | None = None,
) -> Steps[JobAnswer]:
    """The job when it has succeeded.

    :param on_event: called with every event meanwhile.
    :raises JobFailed: it ended otherwise; ``code`` says how.
    :raises WaitedTooLong: after ``timeout_s``, looked at whenever the service lets hear of itself
        (at least every 10 s).
    """
    deadline = None if timeout_s is None else core.clock() + timeout_s

    def still_time() -> None:
        if deadline is not None and core.clock() >= deadline:
            raise WaitedTooLong(
                f"job {job_id} has not ended within {timeout_s:g} s; it goes on. Wait again, or "
                "cancel it",
                job_id=job_id,
            )

    following = follow(quote(job_id), core.patience)
    yield from listening(following, on_event or (lambda event: None), still_time)
    ended = yield from job(core, job_id)
    if ended.status is not JobStatus.SUCCEEDED:
        raise failure_of(ended)
    return ended


def download(
    core: Core, job_id: str, folder: Path | str, *, only: Sequence[str] = ()
) -> Steps[list[Path]]:
    """Fetch a job's files into a folder, laid out as the ZIP; returns where they lie.

    Every file appears whole or not at all, checked against the job's manifest. What an earlier
    call began is continued.

    :param only: patterns of names, e.g. ``["stage2/*"]``; empty: all files.
    :raises RequestRefused, NotThere: a job without a result, or whose files are gone.
    :raises DownloadDamaged: a file is twice not what the manifest says.
    """
    return (yield from download_files(quote(job_id), Path(folder), core.patience, only))


def cancel(core: Core, job_id: str) -> Steps[JobAnswer]:
    """Stop a job at its next step and remove its files; a job that has ended is removed."""
    call = Call("DELETE", f"/jobs/{quote(job_id)}")
    return parsed(JobAnswer, (yield from exchange(call, core.patience)))


def export(
    core: Core,
    job_id: str,
    options: FinishingOptions | Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
    terms: Terms | None = None,
) -> Steps[JobAnswer]:
    """A new job that makes other files from a finished job's stored results, without sampling.

    :param options: ``texture_size``, ``target_faces``, ``formats`` ... as in API.md.
    """
    headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
    body = {"json": {**_plain(options), **_plain(terms)}}
    call = Call("POST", f"/jobs/{quote(job_id)}/exports", headers, body)
    return parsed(JobAnswer, (yield from exchange(call, core.patience)))


def health(core: Core) -> Steps[Health]:
    """Whether the service can serve its mode; a service that can not raises ServiceUnavailable."""
    return parsed(Health, (yield from exchange(Call("GET", "/health"), core.patience)))


def info(core: Core) -> Steps[Info]:
    """Mode, stages, devices, limits and measured times of the service."""
    return parsed(Info, (yield from exchange(Call("GET", "/info"), core.patience)))


def failure_of(ended: JobAnswer) -> JobFailed:
    """Why a job that has ended has no result."""
    error = dict(ended.error or {})
    message = str(error.pop("detail", None) or f"the job is {ended.status.value}")
    code = str(error.pop("code", None) or ended.status.value)
    return JobFailed(f"job {ended.job_id}: {message}", code=code, **{**error, "job": ended})


def _plain(values: Any) -> dict[str, Any]:
    """Options or terms as fields; what nobody set is not sent."""
    if values is None:
        return {}
    if isinstance(values, Mapping):
        return without_none(to_jsonable_python(dict(values)))
    fields: dict[str, Any] = values.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    return fields
