"""A service from Python: ``Client`` blocks, ``AsyncClient`` awaits, both can do the same.

    with Client("http://localhost:8000") as service:
        job = service.submit("photo.png", {"texture_size": 1024})
        service.wait(job.job_id)
        service.download(job.job_id, "out")

Neither ray nor torch is imported.
"""

from serve_app.client.clients import AsyncClient, Client
from serve_app.client.errors import (
    AccessDenied,
    ClientError,
    DownloadDamaged,
    JobFailed,
    NotThere,
    RequestRefused,
    ServiceFailed,
    ServiceUnavailable,
    TooBusy,
    WaitedTooLong,
)
from serve_app.client.exchange import Patience
from serve_app.ingress.schemas import Health, Info, JobAnswer
from serve_app.jobs.protocol import JobEvent, JobStatus
from serve_app.options import RequestOptions
from serve_app.terms import RequestTerms

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "Client",
    "ClientError",
    "DownloadDamaged",
    "Health",
    "Info",
    "JobAnswer",
    "JobEvent",
    "JobFailed",
    "JobStatus",
    "NotThere",
    "Patience",
    "RequestOptions",
    "RequestRefused",
    "RequestTerms",
    "ServiceFailed",
    "ServiceUnavailable",
    "TooBusy",
    "WaitedTooLong",
]
