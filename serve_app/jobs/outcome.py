"""What came of a job so far, and how it is told: reports, manifest, failure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from deployments import errors
from deployments.contracts import GenerationOptions, MeshStatistics
from deployments.errors import GenerationError, StageUnavailable, SyncHumanError
from serve_app.jobs.artifacts import ArtifactFolder
from serve_app.jobs.protocol import JobFailure, StageReport
from serve_app.jobs.stages import StageFailed, StageLost
from serve_app.manifest import build_manifest


@dataclass
class Outcome:
    """Filled while a job runs; ``seconds`` by stage, ``timings`` by stage and part."""

    stage1: StageReport | None = None
    stage2: StageReport | None = None
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    timings: dict[str, dict[str, float]] = field(default_factory=dict)
    statistics: MeshStatistics | None = None
    checkpoint: str = ""
    backends: dict[str, str] = field(default_factory=dict)

    def manifest(
        self,
        folder: ArtifactFolder,
        options: GenerationOptions,
        input_sha256: str,
        parent_id: str | None = None,
    ) -> bytes:
        """``manifest.json`` of the files in this folder."""
        stages: dict[str, dict[str, Any]] = {}
        for name, report in (("stage1", self.stage1), ("stage2", self.stage2)):
            if report is not None:
                stages[name] = {"status": report.status, "timings": self.timings.get(name, {})}
                if report.reason is not None:
                    stages[name]["reason"] = report.reason
        if self.statistics is not None:
            stages["stage2"]["statistics"] = dataclasses.asdict(self.statistics)
        return build_manifest(
            job_id=folder.job,
            parent_id=parent_id,
            checkpoint=self.checkpoint,
            options=options,
            stages=stages,
            files=folder.facts,
            input_sha256=input_sha256,
            warnings=self.warnings,
            backends=self.backends,
        )


def failure_of(error: Exception) -> JobFailure:
    """An error as a failed job shows it. What nobody expected stays in the log."""
    if isinstance(error, SyncHumanError):
        kind = type(error).__name__
        return JobFailure(code=error.code, message=error.message, kind=kind, detail=error.detail)
    return JobFailure(
        code="internal_error",
        message="the service failed in a way it did not expect; its log has the cause",
        kind="SyncHumanError",
    )


def final_error(stage: str, problem: StageLost | StageFailed, attempts: int) -> SyncHumanError:
    """The error that ends a job after its last attempt, or after a failure that would repeat.

    A Stage 2 that keeps dying is one that can not run; for Stage 1 there is nothing to fall back
    on, so that is a failure.
    """
    if isinstance(problem, StageFailed):
        failure = problem.failure
        kind = getattr(errors, failure.kind, GenerationError)
        text = failure.message
        if failure.retryable:  # then it came again in every start
            text += f"; the job was begun {attempts} times. Send the request again later"
        error: SyncHumanError = kind(text, code=failure.code, **failure.detail)
        return error
    message = f"{problem}; the job was begun {attempts} times. Send the request again later"
    if stage == "stage1":
        return GenerationError(message, code="stage1_failed", attempts=attempts)
    return StageUnavailable(
        message, code=f"{stage}_unavailable", reason=str(problem), attempts=attempts
    )
