"""The running service as a client and an operator meet it."""

from __future__ import annotations

import base64
import os
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2

from deployments.contracts import GenerationOptions, Mode
from serve_app.jobs.protocol import JobRequest
from serve_app.options import options_as_json
from serve_app.storage import open_storage

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "serve_app" / "sample" / "person.png"
LOGS = {"encoding": "JSON"}
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
QUICK = {"texture_size": "256", "target_faces": "2000"}

# Seconds. Short, so that faults are noticed while a test waits; but a busy machine takes seconds
# for an answer, and a lease that runs out meanwhile costs an attempt that no test asked for.
LEASE, STALE, BEAT, LOOK = 15.0, 6.0, 1.0, 1.0


class Service:
    """The running service as a client and an operator meet it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=300)

    def deploy_front(self, **changes: Any) -> None:
        from ray import serve

        from serve_app.app import front
        from serve_app.settings import FrontArgs

        args = {
            "storage_url": str(self.folder / "jobs"),
            "database_url": f"sqlite:///{self.folder}/jobs.db",
            "lease_s": LEASE,
            "heartbeat_stale_s": STALE,
            "monitor_period_s": LOOK,
            "drain_s": 60,
            "webhook_secret": SECRET,
            "allow_private_urls": True,  # receivers of webhooks on this machine
            **changes,
        }
        application = front(FrontArgs.model_validate(args))
        serve.run(application, name="front", route_prefix="/", logging_config=LOGS)

    def deploy_stage1(self) -> None:
        from ray import serve

        from serve_app.app import stage1
        from serve_app.settings import Stage1Args

        args = Stage1Args(heartbeat_s=BEAT, alive_check_s=BEAT)
        serve.run(stage1(args), name="stage1", route_prefix=None, logging_config=LOGS)

    def deploy_stage2(self, **changes: Any) -> None:
        from ray import serve

        from serve_app.app import stage2
        from serve_app.settings import Stage2Args

        args = {"require_kaolin": False, "heartbeat_s": BEAT, "alive_check_s": BEAT, **changes}
        application = stage2(Stage2Args.model_validate(args))
        serve.run(application, name="stage2", route_prefix=None, logging_config=LOGS)

    def remove_stage2(self) -> None:
        from ray import serve

        serve.delete("stage2")

    def submit(self, mode: Mode = Mode.OFFICIAL, **options: Any) -> str:
        """A job's id. Behind the HTTP surface, whose ranges would make every test take minutes."""
        job = uuid.uuid4().hex
        path = f"{job}/input.png"
        open_storage(self.folder / "jobs").write(path, SAMPLE.read_bytes())
        quick = GenerationOptions(
            mode=mode, stage1_steps=8, stage2_steps=6, texture_size=256, target_faces=2000
        )
        request = JobRequest(
            job_id=job, input_path=path, options=options_as_json(replace(quick, **options))
        )
        self._jobs().submit.remote(request).result(timeout_s=60)
        return job

    @staticmethod
    def _jobs() -> Any:
        from ray import serve

        return serve.get_deployment_handle("Jobs", "front")

    def generate(self, **options: str) -> httpx2.Response:
        with SAMPLE.open("rb") as picture:
            return self.http.post("/generate", files={"image": picture}, data={**QUICK, **options})

    def look(self, job: str) -> Any:
        return self.http.get(f"/jobs/{job}").json()

    def finished(self, job: str, within_s: float = 300) -> Any:
        def ended() -> Any:
            view = self.look(job)
            return view if view["status"] in ("succeeded", "failed", "cancelled") else None

        return until(ended, within_s)

    def at_step(self, job: str, stage: str = "stage1", step: int = 2) -> None:
        """Wait until a job is in the middle of a stage."""

        def there() -> bool:
            view = self.look(job)
            assert view["status"] in ("queued", "running"), view
            return bool(view["stage"] == stage and view["step"] >= step)

        until(there, 120)

    def stage_state(self, stage: str) -> str:
        state: str = self.http.get("/info").json()[stage]["state"]
        return state

    def kill(self, application: str, deployment: str) -> int:
        """SIGKILL the only replica of a deployment; returns its process id."""
        (pid,) = replica_pids(application, deployment)
        os.kill(pid, signal.SIGKILL)
        return pid


def replica_pids(application: str, deployment: str) -> list[int]:
    """Processes with the title that Serve gives a replica."""
    title = f"ray::ServeReplica:{application}:{deployment}"
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")[0].decode()
            except (OSError, UnicodeDecodeError):
                continue  # it ended meanwhile
            if command.strip() == title or command.startswith(f"{title}."):
                found.append(int(entry.name))
    return found


def until(condition: Callable[[], Any], within_s: float = 30) -> Any:
    """The first truthy answer."""
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.1)
