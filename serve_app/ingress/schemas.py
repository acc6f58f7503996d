"""Request and response bodies, with the examples that ``/docs`` shows."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import UploadFile
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from deployments.contracts import Mode
from serve_app.jobs.protocol import JobKind, JobStatus, WebhookReport
from serve_app.options import Blank, FinishingOptions, RequestOptions
from serve_app.terms import RequestTerms


def _file(value: Any) -> Any:
    """A browser sends an empty text where no file was chosen; any other text is a mistake."""
    if isinstance(value, str):
        if value:
            raise ValueError("must be a file and not text: curl -F image=@photo.png")
        return None
    return value


class GenerateForm(RequestOptions, RequestTerms):
    """The fields of ``POST /generate``: one picture, options, and terms."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    image: Annotated[UploadFile | None, BeforeValidator(_file)] = Field(
        None, description="PNG, JPEG or WebP file; RGBA PNG recommended"
    )
    image_url: Annotated[str | None, Blank] = Field(
        None,
        max_length=4096,
        description="public http(s) address of the picture, instead of image",
        examples=["https://example.com/image.png"],
    )
    download: Annotated[bool | None, Blank] = Field(
        None, description="true: the answer is the ZIP; also taken from the query"
    )

    @property
    def options(self) -> RequestOptions:
        """The options alone."""
        names = RequestOptions.model_fields
        return RequestOptions.model_validate({name: getattr(self, name) for name in names})


class JobJson(RequestOptions, RequestTerms):
    """The JSON body of ``POST /jobs``."""

    image_url: str | None = Field(None, max_length=4096)
    image_base64: str | None = Field(None, description="the picture's bytes in base64")

    @property
    def options(self) -> RequestOptions:
        """The options alone."""
        names = RequestOptions.model_fields
        return RequestOptions.model_validate({name: getattr(self, name) for name in names})


class ExportJson(FinishingOptions, RequestTerms):
    """The JSON body of ``POST /jobs/{job_id}/exports``."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"texture_size": 1024, "target_faces": 20000}]}
    )


class Answer(BaseModel):
    """Base of what the API answers; the example shows every field."""

    model_config = ConfigDict(extra="forbid")


class StageAnswer(Answer):
    """One stage's part of a result."""

    status: str = Field(description="completed, skipped or failed", examples=["completed"])
    reason: str | None = Field(None, description="why the stage did not complete")
    output_dir: str | None = Field(
        None,
        description="where the service keeps the files",
        examples=["tmp_api_jobs/a1b2c3d4/stage1_output"],
    )
    files: dict[str, str] = Field(default_factory=dict, description="key -> name in output_dir")


class Links(Answer):
    """Where to go on from here."""

    job: str = Field(examples=["/jobs/a1b2c3d4"])
    events: str = Field(examples=["/jobs/a1b2c3d4/events"])
    result: str = Field(examples=["/jobs/a1b2c3d4/result.zip"])
    exports: str = Field(
        description="where to ask for other files", examples=["/jobs/a1b2c3d4/exports"]
    )


class GenerateAnswer(Answer):
    """A finished job."""

    job_id: str = Field(examples=["a1b2c3d4"])
    mode: Mode = Field(examples=["official"])
    status: str = Field(examples=["completed"])
    stage1: StageAnswer
    stage2: StageAnswer
    warnings: list[str] = Field(default_factory=list)
    links: Links


class JobAnswer(Answer):
    """A job, finished or not."""

    job_id: str
    kind: JobKind = Field(description="generate, or export: made from a job's stored results")
    parent_id: str | None = Field(None, description="of an export: the job it is made from")
    status: JobStatus
    mode: Mode
    options: dict[str, Any]
    priority: int = Field(0, description="higher comes first")
    stage: str | None = Field(
        None, description="what runs now: preprocess, stage1, stage2, preview, export"
    )
    step: int = 0
    steps: int = 0
    attempt: int = 0
    queue_position: int | None = Field(None, description="1 is next, while the job is queued")
    created_at: float = Field(description="seconds since 1970, as all times")
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = Field(
        None, description="of an ended job: from then on it answers 410; null: never"
    )
    estimated_seconds: float | None = Field(
        None, description="rest of the job as the service's recent jobs went; null without any"
    )
    warnings: list[str] = Field(default_factory=list)
    stage1: StageAnswer | None = None
    stage2: StageAnswer | None = None
    files: dict[str, str] = Field(default_factory=dict, description="name in the ZIP -> link")
    error: dict[str, Any] | None = Field(None, description="code and detail of a failed job")
    webhook: WebhookReport | None = Field(
        None, description="the job's webhook and what it was told; not in lists"
    )
    links: Links


class JobList(Answer):
    """One page of jobs, newest first, without queue positions and estimates."""

    jobs: list[JobAnswer]
    next_cursor: str | None = Field(
        None, description="send it as cursor for the next page; null on the last"
    )


class Health(Answer):
    """The fields of unified_api.md."""

    status: str = Field(description="ok, or unavailable with HTTP status 503", examples=["ok"])
    service: str = Field(examples=["SyncHuman Unified API"])
    version: str = Field(examples=["2.0.0"])
    mode: Mode = Field(examples=["official"])
    stage1_available: bool = Field(examples=[True])
    stage2_available: bool = Field(examples=[True])
    stage1_steps: int = Field(examples=[50])
    stage2_steps: int = Field(examples=[25])


class Gpu(Answer):
    """The device of one stage replica, from its last heartbeat."""

    stage: str = Field(examples=["stage1"])
    replica: str
    device: str = Field(examples=["NVIDIA H200"])
    memory_total_gb: float | None = Field(None, examples=[139.8])
    memory_used_gb: float | None = Field(None, examples=[11.2])
    memory_available_gb: float | None = Field(None, examples=[128.6])
    busy: bool = False


class StageInfo(Answer):
    """One stage's configuration and state."""

    available: bool
    state: str = Field(description="up, idle, starting, zero, failed, absent or unknown")
    reason: str | None = None
    default_steps: int = Field(examples=[50])
    steps_range: tuple[int, int] = Field(examples=[(30, 100)])
    replicas: int = 0
    checkpoint: str | None = None
    backends: dict[str, str] = Field(default_factory=dict)
    step_seconds: float | None = Field(None, description="of the last step, measured")


class TimeEstimates(Answer):
    """Median seconds of recent jobs; null until one has run."""

    stage1_seconds: float | None = None
    stage2_seconds: float | None = None
    total_seconds: float | None = Field(None, description="of a request in the service's mode")


class Limits(Answer):
    """What a request must keep to."""

    max_upload_mb: float
    max_megapixels: float
    min_side_px: int
    max_texture_size: int
    formats: list[str] = Field(examples=[["PNG", "JPEG", "WebP"]])


class Info(Answer):
    """Configuration and abilities of the service."""

    service: str
    version: str
    mode: Mode
    description: str
    stage1: StageInfo
    stage2: StageInfo
    gpus: list[Gpu]
    queued: int
    running: int
    time_estimates: TimeEstimates
    limits: Limits
