"""A room of runners with the real store and storage, and stages that follow scripts."""

from __future__ import annotations

from typing import Any

from scripted import ScriptedStage, asset, multiview_result, prepared_image, run_of

from deployments.contracts import Mode
from serve_app.jobs.claims import ClaimStore
from serve_app.jobs.protocol import StageState
from serve_app.jobs.runner import JobRun, RunnerRoom, Stages
from serve_app.jobs.stages import StageCaller
from serve_app.jobs.store import JobStore
from serve_app.settings import LiveArgs
from serve_app.storage import Storage

UP = StageState(state="up")


class Bench:
    """A room with scripted stages, and what became of the job that ran in it."""

    def __init__(self, store: JobStore, claims: ClaimStore, storage: Storage, submit: Any) -> None:
        self.store, self.claims, self.storage, self.submit = store, claims, storage, submit
        self.preprocess = ScriptedStage(run_of("preprocess", prepared_image(), 0))
        self.stage1 = ScriptedStage(run_of("stage1", multiview_result()))
        self.stage2: ScriptedStage | None = ScriptedStage(run_of("stage2", asset()))
        self.preview = ScriptedStage(run_of("preview", b"preview-bytes", 0))
        self.export = ScriptedStage(run_of("export", asset(), 0))
        self.states: dict[str, StageState] = {}
        self.live = LiveArgs(queue_wait_s=0.3, start_wait_s=0.2, fallback_start_wait_s=0.1)

    async def run(self, mode: Mode = Mode.OFFICIAL, job: str = "a", **request: Any) -> Any:
        self.storage.write(f"{job}/input.png", b"picture")
        self.submit(job, mode=mode, **request)
        return await self.go_on(job)

    async def go_on(self, job: str = "a") -> Any:
        claim = self.claims.claim("runner", 1000)
        assert claim is not None
        await JobRun(self.room(), claim).run()
        return self.store.get(job)

    def room(self) -> RunnerRoom:
        async def state_of(stage: str) -> StageState:
            return self.states.get(stage, UP)

        return RunnerRoom(
            claims=self.claims,
            storage=self.storage,
            stages=Stages(
                preprocess=StageCaller("preprocess", self.preprocess),
                stage1=StageCaller("stage1", self.stage1),
                stage2=None if self.stage2 is None else StageCaller("stage2", self.stage2),
                preview=StageCaller("preview", self.preview),
                export=StageCaller("export", self.export),
            ),
            state_of=state_of,
            live=lambda: self.live,
            lease_s=7.0,
            changed=lambda job: None,
        )

    def events(self, job: str = "a") -> list[tuple[str, dict[str, Any]]]:
        return [(event.kind, event.body) for event in self.store.events(job, 0)[0]]

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events()]
