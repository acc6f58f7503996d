"""The jobs room: takes jobs in, drives them, and tells what becomes of them. Free of Ray handles.

``Jobs`` (deployment.py) runs one of these on a replica, tests run one in their own process. Several
may share a database: leases and fences keep them apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping

from deployments.errors import ServiceError
from deployments.messages import Heartbeat
from serve_app.jobs.claims import Claim, ClaimStore
from serve_app.jobs.deliveries import DeliveryStore
from serve_app.jobs.listing import list_jobs
from serve_app.jobs.monitor import Look, StatusMonitor
from serve_app.jobs.observer import JobObserver
from serve_app.jobs.protocol import (
    JobEvent,
    JobPage,
    JobQuery,
    JobRequest,
    JobStatus,
    JobView,
    KeyAllowance,
    ServiceState,
    StageState,
)
from serve_app.jobs.registry import Registry
from serve_app.jobs.runner import JobRun, RunnerRoom, Stages
from serve_app.jobs.store import JobStore
from serve_app.jobs.sweeper import Sweeper
from serve_app.jobs.tables import Database
from serve_app.jobs.usage import KeyUsage
from serve_app.jobs.watchers import Watchers
from serve_app.jobs.webhooks import WebhookCarrier, WebhookSender
from serve_app.metrics.catalogue import JOBS_QUEUED, JOBS_RUNNING, STAGE_REPLICAS
from serve_app.metrics.recorder import NoRecorder, Recorder
from serve_app.settings import FrontArgs, LiveArgs
from serve_app.storage import Storage
from serve_app.tracing import Tracer

log = logging.getLogger("ray.serve")

LOOK_FOR_JOBS_S = 0.5  # other replicas' submissions and expired leases are found by looking
LOOK_FOR_EVENTS_S = 0.5
TELL_EVERY_S = 5.0
MEDIANS_KEPT_S = 5.0
STATES_KEPT_S = 0.5
STORE_AWAY_PAUSE_S = 1.0
UNMEASURED_JOB_S = 60.0


class JobRoom:
    """Implements ``JobService``, and the stages' side: :meth:`alive` and :meth:`heartbeat`.

    :param name: unique among the rooms of a database.
    :param applications: the Serve application of each stage, None for one that is not there.
    """

    def __init__(
        self,
        name: str,
        args: FrontArgs,
        database: Database,
        storage: Storage,
        stages: Stages,
        look: Look,
        applications: Mapping[str, str | None],
        recorder: Recorder | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.live = LiveArgs.model_validate(
            {key: getattr(args, key) for key in LiveArgs.model_fields}
        )
        self._name = name
        self._args = args
        self._database = database
        self._store = JobStore(database)
        self._claims = ClaimStore(database)
        self._usage = KeyUsage(database)
        self._registry = Registry(
            database,
            stale_s=args.heartbeat_stale_s,
            start_wait_s=lambda: self.live.start_wait_s,
        )
        self._monitor = StatusMonitor(look, period_s=args.monitor_period_s)
        self._applications = dict(applications)
        self._watchers = Watchers()
        self._runner = RunnerRoom(
            claims=self._claims,
            storage=storage,
            stages=stages,
            state_of=self._state_of,
            live=lambda: self.live,
            lease_s=args.lease_s,
            changed=self._watchers.wake,
            observe=lambda claim: JobObserver(claim, recorder, tracer),
        )
        self._recorder = recorder or NoRecorder()
        self._sweeper = Sweeper(database, storage, tombstone_s=lambda: self.live.tombstone_s)
        self._webhooks = _webhooks(name, args, database, recorder)
        self._runs: dict[str, JobRun] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelling: set[str] = set()
        self._work = asyncio.Event()
        self._ended = asyncio.Event()
        self._draining = False
        self._states: tuple[float, dict[str, StageState]] = (0.0, {})
        self._medians: tuple[float, dict[str, float]] = (0.0, {})
        self._loops: list[asyncio.Task[None]] = []

    # Life

    def start(self) -> None:
        """Begin to look for jobs; needs a running event loop."""
        loops = (
            self._claim_for_ever,
            self._renew_for_ever,
            self._sweep_for_ever,
            self._tell_for_ever,
            self._monitor.watch,
            *((self._webhooks.carry_for_ever,) if self._webhooks else ()),
        )
        self._loops = [asyncio.create_task(loop()) for loop in loops]

    def check(self) -> None:
        """:raises RuntimeError: when a loop has ended, which none may before :meth:`drain`."""
        for task in self._loops:
            if task.done() and not self._draining:
                raise RuntimeError(f"a loop of the jobs room has ended: {task}")

    async def drain(self, wait_s: float) -> None:
        """Take no further jobs, let the running ones finish, give back those that do not."""
        self._draining = True
        self._work.set()
        if self._tasks:
            log.info("%s: waiting for %d jobs", self._name, len(self._tasks))
            await asyncio.wait(list(self._tasks.values()), timeout=wait_s)
        tasks = list(self._tasks.values())
        for task in [*tasks, *self._loops]:
            task.cancel()
        await asyncio.gather(*tasks, *self._loops, return_exceptions=True)

    # JobService

    async def submit(self, request: JobRequest) -> JobView:
        if self._draining:
            raise ServiceError(
                "the service is being replaced: send the request again", code="shutting_down"
            )
        try:
            view, _ = await asyncio.to_thread(
                self._store.submit,
                request,
                max_attempts=self.live.max_attempts,
                max_queued=self.live.max_queued_jobs,
                max_queued_of_owner=self.live.max_queued_jobs_per_key,
                key_kept_s=self.live.idempotency_s,
            )
        except ServiceError as error:
            if error.code in ("queue_full", "too_many_jobs"):
                error.detail["retry_after"] = await self._seconds_a_place()
            raise
        self._work.set()
        return view

    async def get(self, job_id: str, owner: str | None = None) -> JobView:
        return await asyncio.to_thread(self._store.get, job_id, owner)

    async def page(self, query: JobQuery) -> JobPage:
        return await asyncio.to_thread(list_jobs, self._database, query, time.time())

    async def events_after(
        self, job_id: str, after: int, wait_s: float
    ) -> tuple[list[JobEvent], bool]:
        """Events with ``seq > after``, waiting for the first of them; True: there are no more."""
        deadline = time.monotonic() + wait_s
        while True:
            changed = self._watchers.change_of(job_id)
            found, over = await asyncio.to_thread(self._store.events, job_id, after)
            left = deadline - time.monotonic()
            if found or over or left <= 0:
                return found, over
            await asyncio.wait({changed}, timeout=min(left, LOOK_FOR_EVENTS_S))

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        over = False
        while not over:
            found, over = await self.events_after(job_id, after, wait_s=10.0)
            for event in found:
                after = event.seq
                yield event

    async def cancel(self, job_id: str, owner: str | None = None) -> JobView:
        view = await asyncio.to_thread(self._store.cancel, job_id, owner)
        self._stop(view)
        return view

    async def remove(self, job_id: str, owner: str | None = None) -> JobView:
        view = await asyncio.to_thread(self._store.remove, job_id, owner)
        self._stop(view)
        if view.status.final:
            await asyncio.to_thread(self._sweeper.sweep, job_id)
        return view

    def _stop(self, view: JobView) -> None:
        """Stop the run of a job that was cancelled, where it is here, and tell who watches it."""
        task = self._tasks.get(view.id)
        if view.status is JobStatus.RUNNING and task is not None:
            self._cancelling.add(view.id)
            task.cancel()
        self._watchers.wake(view.id)

    async def use_key(self, owner: str, per_minute: int) -> KeyAllowance:
        return await asyncio.to_thread(self._usage.take, owner, per_minute)

    async def state(self) -> ServiceState:
        states = await self._all_states()
        counts = await asyncio.to_thread(self._store.counts)
        return ServiceState(
            mode=self.live.mode,
            stages={name: states[name] for name in ("stage1", "stage2")},
            queued=counts[JobStatus.QUEUED],
            running=counts[JobStatus.RUNNING],
            seconds_by_stage=await self._median_seconds(),
        )

    # The stages' side

    async def alive(self, job_id: str, fence: int) -> float:
        """Seconds that the lease of this fence still has; 0: stop working."""
        return await asyncio.to_thread(self._claims.alive, job_id, fence)

    async def heartbeat(self, heartbeat: Heartbeat) -> None:
        await asyncio.to_thread(self._registry.beat, heartbeat)

    # Loops

    async def _claim_for_ever(self) -> None:
        while not self._draining:
            self._work.clear()
            try:
                while len(self._tasks) < self._args.runner_concurrency and not self._draining:
                    claim = await asyncio.to_thread(
                        self._claims.claim, self._name, self._args.lease_s
                    )
                    if claim is None:
                        break
                    self._begin(claim)
            except ServiceError as error:
                log.error("%s: no jobs to be had: %s", self._name, error)
                await asyncio.sleep(STORE_AWAY_PAUSE_S)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._work.wait(), LOOK_FOR_JOBS_S)

    def _begin(self, claim: Claim) -> None:
        run = self._runs[claim.job] = JobRun(self._runner, claim)
        self._tasks[claim.job] = asyncio.create_task(self._drive(run), name=f"job {claim.job}")

    async def _drive(self, run: JobRun) -> None:
        job = run.claim.job
        try:
            await run.run()
        except asyncio.CancelledError:
            if job in self._cancelling:
                await run.end_cancelled()
            else:
                await run.release()
        finally:
            self._runs.pop(job, None)
            self._tasks.pop(job, None)
            self._cancelling.discard(job)
            self._work.set()
            self._ended.set()

    async def _renew_for_ever(self) -> None:
        """Keep the leases of running jobs; stop those that are lost or to be cancelled."""
        while True:
            await asyncio.sleep(self._args.lease_s / 3)
            mine = {job: run.claim.fence for job, run in self._runs.items()}
            if not mine:
                continue
            try:
                held = await asyncio.to_thread(self._claims.renew, mine, self._args.lease_s)
            except ServiceError as error:
                log.error("%s: leases not renewed: %s", self._name, error)
                continue
            for job, fence in mine.items():
                run, task = self._runs.get(job), self._tasks.get(job)
                if run is None or task is None or run.claim.fence != fence:
                    continue  # it ended, or began again, while the store answered
                if held.get(job, True):  # lost, or its cancellation was asked for elsewhere
                    self._cancelling.add(job)
                    task.cancel()

    async def _sweep_for_ever(self) -> None:
        """Take away what has expired, and what a job leaves that just ended."""
        while not self._draining:  # a wait that ends in this moment swallows a cancellation
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), self._args.sweep_period_s)
            self._ended.clear()
            try:
                await asyncio.to_thread(self._sweeper.sweep)
            except ServiceError as error:
                log.error("%s: nothing swept: %s", self._name, error)
                await asyncio.sleep(STORE_AWAY_PAUSE_S)

    async def _tell_for_ever(self) -> None:
        """Keep the gauges of the queue and of the stages' replicas current."""
        while True:
            with contextlib.suppress(ServiceError):  # the loops that need the store say so
                states = await self._all_states()
                counts = await asyncio.to_thread(self._store.counts)
                self._recorder.record(JOBS_QUEUED, counts[JobStatus.QUEUED])
                self._recorder.record(JOBS_RUNNING, counts[JobStatus.RUNNING])
                for stage in ("stage1", "stage2"):
                    able = [one for one in states[stage].replicas if one.reason is None]
                    self._recorder.record(STAGE_REPLICAS, len(able), stage=stage)
            await asyncio.sleep(TELL_EVERY_S)

    # What is known about the stages

    async def _state_of(self, stage: str) -> StageState:
        place = "preview" if stage == "export" else stage  # one deployment makes both
        return (await self._all_states())[place]

    async def _median_seconds(self) -> dict[str, float]:
        """By stage, over recent jobs."""
        now = time.monotonic()
        if now - self._medians[0] > MEDIANS_KEPT_S:
            self._medians = (now, await asyncio.to_thread(self._store.median_seconds))
        return self._medians[1]

    async def _seconds_a_place(self) -> int:
        """How long it takes, by recent jobs, until one more leaves the queue."""
        seconds = sum((await self._median_seconds()).values()) or UNMEASURED_JOB_S
        return max(1, round(seconds / self._args.runner_concurrency))

    async def _all_states(self) -> dict[str, StageState]:
        """All stages' states, kept for a moment: every waiting job and every request asks."""
        now = time.monotonic()
        if now - self._states[0] > STATES_KEPT_S:
            states = await asyncio.to_thread(
                self._registry.states, self._applications, self._monitor.latest
            )
            self._states = (now, states)
        return self._states[1]


def _webhooks(
    name: str, args: FrontArgs, database: Database, recorder: Recorder | None
) -> WebhookCarrier | None:
    """None without a secret: what is in the table waits for one."""
    if args.webhook_secret is None:
        return None
    sender = WebhookSender(
        args.webhook_secret.get_secret_value().split(),
        timeout_s=args.webhook_timeout_s,
        allow_private=args.allow_private_urls,
    )
    return WebhookCarrier(name, DeliveryStore(database), sender, args.webhook_delays_s, recorder)
