"""What can go wrong between a client and a service.

    ClientError
      RequestRefused       400, 409, 413, 422 ...: the request has to be another one
        NotThere           404, 410: no such job or file, or no longer
        AccessDenied       401, 403: the API key
      TooBusy              429, after all repetitions
      ServiceUnavailable   503, and no answer at all, after all repetitions
      ServiceFailed        500: the service's log has the cause
      JobFailed            the job ended without a result: failed or cancelled
      WaitedTooLong        the job goes on, the client's own time was up
      DownloadDamaged      a file is not what the job's manifest says

``code`` is the service's own (API.md, Errors), ``detail`` holds the other members of its problem.
"""

from __future__ import annotations

import json
from typing import Any

import httpx2

from deployments.errors import SyncHumanError


class ClientError(SyncHumanError):
    """Root of the tree. ``status`` is None where no HTTP answer is behind it."""

    default_code = "client_error"

    @property
    def status(self) -> int | None:
        return self.detail.get("status")

    @property
    def request_id(self) -> str | None:
        """The id under which the service's log has the request."""
        return self.detail.get("request_id")

    @property
    def retry_after(self) -> float | None:
        """Seconds that the service wants to be left alone."""
        return self.detail.get("retry_after")


class RequestRefused(ClientError):  # noqa: N818 - what the service did, as all names here
    """The request has to be another one."""


class NotThere(RequestRefused):
    """No such job or file, or no longer."""


class AccessDenied(RequestRefused):
    """The service wants an API key, or another one."""


class TooBusy(ClientError):  # noqa: N818
    """The service takes no more for now."""


class ServiceUnavailable(ClientError):  # noqa: N818
    """The service can not do this now, or does not answer."""

    default_code = "no_answer"


class ServiceFailed(ClientError):  # noqa: N818
    """The service met something that it did not expect."""


class JobFailed(ClientError):  # noqa: N818
    """The job ended without a result; ``detail["job"]`` is the job as it ended."""


class WaitedTooLong(ClientError):  # noqa: N818
    """The job goes on, the client's own time was up."""

    default_code = "waited_too_long"


class DownloadDamaged(ClientError):  # noqa: N818
    """A file is not what the job's manifest says."""

    default_code = "download_damaged"


def error_of(response: httpx2.Response) -> ClientError:
    """An answer of 400 and above as what it is. Its body must have been read."""
    problem = _problem(response)
    status = response.status_code
    detail = {**problem, "status": status}
    after = response.headers.get("retry-after", "")
    if after.isdecimal():
        detail["retry_after"] = float(after)
    detail.setdefault("request_id", response.headers.get("x-request-id"))
    message = str(detail.pop("detail", None) or f"the service answered {status}")
    code = str(detail.pop("code", None) or f"http_{status}")
    return _kind(status)(message, code=code, **detail)


def is_problem(response: httpx2.Response) -> bool:
    """Whether the service itself said so, and not a proxy or a process that died."""
    kind: str = response.headers.get("content-type", "")
    return kind.startswith("application/problem+json")


def _kind(status: int) -> type[ClientError]:
    if status in (401, 403):
        return AccessDenied
    if status in (404, 410):
        return NotThere
    if status == 429:
        return TooBusy
    if status in (502, 503, 504):
        return ServiceUnavailable
    return RequestRefused if status < 500 else ServiceFailed


def _problem(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = json.loads(response.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
