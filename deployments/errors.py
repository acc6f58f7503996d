"""Every failure that this project raises on purpose, as one small tree.

    SyncHumanError
      InputError          the request can not be served as it is: the client has to change it
      CheckpointError     weights are missing, of another shape, or not safe to load
      BackendError        an optional backend was asked for and is not usable here
      GenerationError     a stage ran and did not produce a usable result
      StageUnavailable    no replica of a stage can take the work now
      Cancelled           the job was cancelled; no failure
      ServiceError        jobs, storage or limits of the service

``code`` is stable and machine-readable; the message names the value, the rule and the remedy.
Exceptions cross process borders (Ray pickles them), so ``code`` and ``detail`` survive pickling.
"""

from __future__ import annotations

from typing import Any


class SyncHumanError(Exception):
    """Root of the tree. Catch this to catch everything that this project raises on purpose."""

    default_code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None, **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.code, self.detail)


def _rebuild(
    kind: type[SyncHumanError], message: str, code: str, detail: dict[str, Any]
) -> SyncHumanError:
    return kind(message, code=code, **detail)


class InputError(SyncHumanError):
    """The request can not be served as it is."""

    default_code = "invalid_input"


class CheckpointError(SyncHumanError):
    """Weights are missing, of another shape, or not safe to load."""

    default_code = "checkpoint_invalid"


class BackendError(SyncHumanError):
    """An optional backend was asked for and is not usable here."""

    default_code = "backend_unavailable"


class GenerationError(SyncHumanError):
    """A stage ran and did not produce a usable result."""

    default_code = "generation_failed"


class StageUnavailable(SyncHumanError):  # noqa: N818 - a state of the service, not a fault
    """No replica of a stage can take the work now."""

    default_code = "stage_unavailable"


class Cancelled(SyncHumanError):  # noqa: N818 - not an error of anybody
    """The job was cancelled."""

    default_code = "cancelled"

    def __init__(self, message: str = "the job was cancelled", **keywords: Any) -> None:
        super().__init__(message, **keywords)


class ServiceError(SyncHumanError):
    """Jobs, storage or limits of the service."""

    default_code = "service_error"
