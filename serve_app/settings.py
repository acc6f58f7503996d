"""Every setting of the service: type, default, range and environment name, in one place.

A value comes from (first wins) what a builder was given (``args:`` of a YAML file, a flag of the
command line), the environment variable ``SYNCHUMAN_<NAME>``, the default here. Secrets such as a
database password therefore need not stand in a configuration file. Nothing else in the project
reads the environment. An unknown name is an error that names it.

``FrontArgs``, ``Stage1Args`` and ``Stage2Args`` belong to one application each; ``AllArgs`` is
their union for ``build``, which puts everything into one application. Names follow
unified_api.md, the behaviour behind them serving.md section 3.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from deployments.contracts import Mode

STAGE1_STEPS = (30, 100)
STAGE2_STEPS = (15, 40)
PRIORITIES = (-100, 100)
DAY_S = 86_400.0

AttentionBackend = Literal["auto", "sdpa", "xformers", "flash-attn"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]
OnMissing = Literal["raise", "idle"]
Matting = Literal["auto", "rembg", "none"]
Seconds = Annotated[float, Field(ge=0)]


def absolute_location(location: str) -> str:
    """A folder path made absolute, since every replica has a working folder of its own.

    URLs stay as they are, except a relative SQLite file: ``sqlite:///jobs.db``.
    """
    if location.startswith("sqlite:///"):
        file = location.removeprefix("sqlite:///")
        return "sqlite:///" + str(Path(file).absolute()) if file else location
    return location if "://" in location else str(Path(location).absolute())


Location = Annotated[str, AfterValidator(absolute_location)]


class SettingsBase(BaseSettings):
    """What all argument models share."""

    model_config = SettingsConfigDict(
        env_prefix="SYNCHUMAN_",
        env_ignore_empty=True,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    restart_token: str = Field(
        "",
        description="Used by nothing. Changing it makes Serve start the application again: the way "
        "to retry one that is DEPLOY_FAILED.",
    )


class ModeArgs(SettingsBase):
    """How much of the method the service offers."""

    mode: Mode = Field(Mode.OFFICIAL, description="official, stage1-only or graceful-fallback")


class CheckpointArgs(SettingsBase):
    """Which weights."""

    checkpoint: str = Field(
        "embedded",
        min_length=1,
        description="embedded, official, a path to a tree, random:official or random:small",
    )


class TraceArgs(SettingsBase):
    """Where spans go (tracing.py)."""

    trace_endpoint: str | None = Field(
        None,
        description="OTLP/HTTP collector such as http://collector:4318/v1/traces; needs the extra "
        "'tracing'. null: no spans, and traceparent is handed on",
    )
    trace_ratio: float = Field(
        1.0, ge=0, le=1, description="share of the traces begun here that are kept"
    )


class LiveArgs(ModeArgs):
    """What may change while the service runs (``user_config`` of Gateway and Jobs)."""

    stage1_steps: int = Field(
        50, ge=STAGE1_STEPS[0], le=STAGE1_STEPS[1], description="steps when a request names none"
    )
    stage2_steps: int = Field(
        25, ge=STAGE2_STEPS[0], le=STAGE2_STEPS[1], description="steps when a request names none"
    )
    max_upload_mb: float = Field(20, gt=0, le=1024, description="picture size, counted on reading")
    max_megapixels: float = Field(50, gt=0, le=1000, description="checked before decoding")
    min_side_px: int = Field(64, ge=1, description="smallest width and height of a picture")
    fetch_timeout_s: float = Field(20, gt=0, description="whole time for an image_url")
    max_texture_size: int = Field(4096, ge=256, le=16384, description="largest texture to ask for")
    max_queued_jobs: int = Field(1000, ge=1, description="beyond it a request is answered with 429")
    max_queued_jobs_per_key: int = Field(100, ge=1, description="the same for one API key")
    key_requests_per_minute: int | None = Field(
        120, ge=1, description="submissions a minute of one API key; null: any number"
    )
    key_jobs_at_once: int | None = Field(
        100, ge=1, description="unfinished jobs of one API key; null: any number"
    )
    max_intakes: int = Field(
        32, ge=1, description="pictures taken in at once by one Gateway; beyond it 503"
    )
    max_priority: int = Field(
        10,
        ge=PRIORITIES[0],
        le=PRIORITIES[1],
        description="highest priority that a request may ask",
    )
    keep_for_s: float | None = Field(
        7 * DAY_S, gt=0, description="an ended job keeps its files so long; null: until DELETE"
    )
    max_keep_for_s: float | None = Field(
        30 * DAY_S, gt=0, description="longest keep_for that a request may ask; null: any"
    )
    keep_input: bool = Field(
        True, description="false: uploaded pictures go when their jobs have ended"
    )
    tombstone_s: Seconds = Field(
        30 * DAY_S, description="how long a job whose files are gone is still known (410, then 404)"
    )
    idempotency_s: Seconds = Field(DAY_S, description="how long an Idempotency-Key finds its job")
    exports: bool = Field(
        True, description="store Stage 2's surface with each result, so that exports can be made"
    )
    queue_wait_s: Seconds = Field(900, description="wait for a stage whose replicas are all busy")
    start_wait_s: Seconds = Field(180, description="wait for a stage that is starting")
    fallback_start_wait_s: Seconds = Field(
        30, description="the same for Stage 2 where Stage 1 alone is an acceptable answer"
    )
    unknown_wait_s: Seconds = Field(10, description="wait for a stage whose state is not known")
    max_attempts: int = Field(3, ge=1, le=20, description="starts of a job before it is given up")
    cancel_on_disconnect: bool = Field(
        True,
        description="leaving /generate without an Idempotency-Key cancels the job",
    )


def usable_secrets(text: SecretStr | None) -> SecretStr | None:
    """Refuse a secret that could not sign, at start and not at the first webhook."""
    for secret in text.get_secret_value().split() if text else ():
        try:
            packed = secret.removeprefix("whsec_").rstrip("=")
            size = len(base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True))
        except ValueError:
            size = 0
        if not 24 <= size <= 64:
            raise ValueError(
                "webhook_secret must be whsec_ and 24 to 64 bytes in base64. Make one: "
                'python -c "import base64, secrets; '
                "print('whsec_' + base64.b64encode(secrets.token_bytes(32)).decode())\""
            )
    return text


class WebhookArgs(SettingsBase):
    """Telling a job's webhook_url what happens (jobs/webhooks.py)."""

    webhook_secret: Annotated[SecretStr | None, AfterValidator(usable_secrets)] = Field(
        None,
        description="whsec_... of Standard Webhooks, best by the environment; several with spaces "
        "between, while one replaces another. null: webhook_url is refused",
    )
    webhook_delays_s: tuple[Seconds, ...] = Field(
        (5, 30, 120, 600, 3600, 4 * 3600, 12 * 3600),
        description="pauses between attempts; after the last one a message is given up",
    )
    webhook_timeout_s: float = Field(15, gt=0, le=120, description="whole time for one attempt")


class FrontArgs(LiveArgs, CheckpointArgs, TraceArgs, WebhookArgs):
    """Application ``front``: Gateway, Jobs, Preprocess and Preview."""

    storage_url: Location = Field("tmp_api_jobs", description="folder or fsspec URL for artifacts")
    database_url: Location = Field(
        "sqlite:///synchuman_data/jobs.db",
        description="SQLAlchemy URL. SQLite: one Jobs replica on one node. Several: PostgreSQL",
    )
    stage1_app: str = Field("stage1", min_length=1, description="application with Stage1")
    stage2_app: str | None = Field("stage2", description="application with Stage2, null without")
    runner_concurrency: int = Field(
        2,
        ge=1,
        le=256,
        description="jobs driven at once by one Jobs replica. More than Stage 1 has replicas, or "
        "its autoscaler never sees a queue",
    )
    lease_s: float = Field(30, ge=1, description="a job whose runner is silent so long is free")
    heartbeat_stale_s: float = Field(
        4.5, gt=0, description="a stage replica silent so long is gone"
    )
    monitor_period_s: float = Field(2, gt=0, description="time between looks at Serve's own status")
    drain_s: Seconds = Field(
        640, description="how long a leaving Jobs replica waits for its jobs (below Serve's grace)"
    )
    sweep_period_s: float = Field(30, gt=0, description="time between looks for expired jobs")
    matting: Matting = Field("auto", description="background removal for pictures without alpha")
    api_keys_file: str | None = Field(None, description="hashed API keys, one a line; null: open")
    cors_origins: tuple[str, ...] = Field(("*",), description="origins that browsers may call from")
    allow_private_urls: bool = Field(
        False,
        description="let image_url and webhook_url reach private addresses; for tests on one "
        "machine only",
    )


class WorkerArgs(CheckpointArgs, TraceArgs):
    """What Stage 1 and Stage 2 share: weights, the device and how the replica is watched."""

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    dtype: Precision = Field("auto", description="auto: float16 on CUDA, float32 on the CPU")
    attn_backend: AttentionBackend = Field(
        "auto",
        validation_alias=AliasChoices("SYNCHUMAN_ATTN_BACKEND", "attn_backend"),
        # Without regard to case the second name is also ATTN_BACKEND, as unified_api.md has it.
        description="auto: the best that works here",
    )
    jobs_app: str | None = Field("front", description="application with Jobs; null: the own one")
    heartbeat_s: float = Field(1.5, gt=0, description="time between reports to Jobs")
    alive_check_s: float = Field(3, gt=0, description="time between questions whether a job is on")
    step_timeout_s: float = Field(
        600, gt=0, description="a replica without progress for so long is declared unhealthy"
    )


class ClientArgs(SettingsBase):
    """What the command line needs to talk to a service."""

    api_key: SecretStr | None = Field(None, description="sent as Authorization: Bearer")


class Stage1Args(WorkerArgs):
    """Application ``stage1``."""

    compile: bool = Field(False, description="compile the joint model: slow start, faster steps")
    fp8: bool = Field(
        False,
        description="large linear layers in FP8: faster steps, less exact views; needs a card of "
        "compute capability 8.9 or later",
    )


class Stage2Args(ModeArgs, WorkerArgs):
    """Application ``stage2``."""

    require_kaolin: bool = Field(
        True, description="extract the mesh with kaolin; false: the native extractor"
    )
    on_missing: OnMissing = Field(
        "raise",
        description="kaolin required and missing: fail at start, or start idle and say why. "
        "Default: raise in official mode, idle in the others",
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_mode(cls, values: Any) -> Any:
        """Derive ``on_missing`` from the mode unless somebody set it."""
        if isinstance(values, dict) and "on_missing" not in values:
            mode = values.get("mode", Mode.OFFICIAL)
            return {**values, "on_missing": "raise" if mode == Mode.OFFICIAL else "idle"}
        return values


class AllArgs(FrontArgs, Stage1Args, Stage2Args):
    """Everything in one application: ``synchuman serve``, notebooks, local tests.

    ``stage2_app: null`` leaves Stage 2 out, as does ``mode: stage1-only``.
    """

    jobs_app: str | None = Field(None, description="application with Jobs; null: the own one")
    gpus_per_stage: float | None = Field(
        None,
        ge=0,
        description="GPUs of each stage replica; null: what the cluster has, two stages sharing a "
        "single card",
    )

    def part(self, kind: type[SettingsBase]) -> Any:
        """The arguments of one application, e.g. ``part(Stage1Args)``."""
        return kind.model_validate({name: getattr(self, name) for name in kind.model_fields})
