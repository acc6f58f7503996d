"""The job that a path names, to whoever may see it.

With API keys a job belongs to the key that submitted it, and to others it is not there: they get
the same 404 as for an id that nobody has.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from serve_app.ingress.problems import owner_of
from serve_app.ingress.room import TheRoom
from serve_app.jobs.protocol import JobView

JobId = Annotated[str, Path(description="the id of a job")]


async def _own_job(job_id: JobId, request: Request, room: TheRoom) -> JobView:
    return await room.service.get(job_id, owner_of(request))


OwnJob = Annotated[JobView, Depends(_own_job)]
