"""The service on a cluster of logical nodes, the faults to put into it, and its clients."""

from __future__ import annotations

import base64
import itertools
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.logical.cluster import ROOT, LogicalCluster, until
from benchmarks.logical.config import FrontSize, StageSize, service_config
from benchmarks.logical.processes import kill
from benchmarks.logical.stages import glb_extras

HERE = Path(__file__).parent
PICTURE = (ROOT / "serve_app" / "sample" / "person.png").read_bytes()
MODES = {"official": {}, "graceful": {"graceful_fallback": "true"}}
LEASE_S = 10.0
WAITS = {"queue_wait_s": 900, "start_wait_s": 60, "fallback_start_wait_s": 30}
SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes ...").decode()
WEBHOOKS = {
    "webhook_secret": SECRET,
    "webhook_delays_s": [1, 2, 5, 10, 30],
    "allow_private_urls": True,  # the receiver is on this machine
}
STAGE1 = StageSize(0.4, replicas=2)
STAGE2 = StageSize(0.4)


@dataclass(frozen=True)
class Answers:
    """The same request in both modes, sent at once."""

    official: httpx2.Response
    graceful: httpx2.Response


class Stand(LogicalCluster):
    """A cluster with one node for Stage 1 and one for Stage 2, apart from the head."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, paths=(HERE,))
        self._seeds = itertools.count(1)
        self._restarts = itertools.count(1)

    def config(
        self,
        *,
        stage1: StageSize = STAGE1,
        stage2: StageSize | None = STAGE2,
        **waits: float,
    ) -> dict[str, Any]:
        """``waits`` are limits by their setting's name; they change without a restart."""
        live = {"user_config": {**WAITS, **waits}}
        front = FrontSize(args={"lease_s": LEASE_S, **WEBHOOKS}, jobs_options=live)
        return service_config(self.folder, stage1, stage2, front, stages="troubled")

    def restarted(self, stage2: StageSize = STAGE2) -> StageSize:
        """The same Stage 2 with another ``restart_token``: how an operator has it tried again."""
        args = {**stage2.args, "restart_token": str(next(self._restarts))}
        return StageSize(
            stage2.seconds, stage2.replicas, stage2.gpus, stage2.autoscaling, stage2.options, args
        )

    def order(self, stage: str, *words: str) -> None:
        """Put a stage into trouble (troubled.py); without words, take the trouble away."""
        place = self.folder / "trouble" / stage
        place.parent.mkdir(exist_ok=True)
        if words:
            place.write_text(" ".join(words))
        else:
            place.unlink(missing_ok=True)

    # Clients

    def generate(self, **fields: str) -> httpx2.Response:
        data = {"seed": str(next(self._seeds)), "texture_size": "256", **fields}
        return self.http.post("/generate", files={"image": ("p.png", PICTURE)}, data=data)

    def both(self, **fields: str) -> Answers:
        with ThreadPoolExecutor(2) as pool:
            official = pool.submit(self.generate, **fields)
            graceful = pool.submit(self.generate, **MODES["graceful"], **fields)
            return Answers(official.result(), graceful.result())

    def submit(self, **fields: str) -> str:
        data = {"seed": str(next(self._seeds)), "texture_size": "256", **fields}
        answer = self.http.post("/jobs", files={"image": ("p.png", PICTURE)}, data=data)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def look(self, job: str) -> Any:
        answer = self.http.get(f"/jobs/{job}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ended(self, job: str, within_s: float = 60) -> Any:
        def final() -> Any:
            view = self.look(job)
            return view if view["status"] in ("succeeded", "failed", "cancelled") else None

        return until(final, within_s)

    def kill_run(self, job: str) -> None:
        """SIGKILL to every Stage 2 while the job is in it; returns when the runner knows."""
        self.at(job, "stage2")
        kill(self.replica_pids("stage2", "Stage2"))

        def known() -> bool:
            view = self.look(job)
            moved = view["stage"] != "stage2" or view["step"] == 0
            return bool(moved or view["status"] in ("succeeded", "failed"))

        until(known, 30)

    def at(self, job: str, stage: str, step: int = 1) -> None:
        """Wait until a job is in the middle of a stage."""

        def there() -> bool:
            view = self.look(job)
            assert view["status"] in ("queued", "running"), view
            return bool(view["stage"] == stage and view["step"] >= step)

        until(there, 60, every_s=0.05)

    # What the service says of itself

    def listens(self) -> bool:
        """Whether anybody answers at all: a killed proxy's successor needs half a minute."""
        try:
            return self.http.get("/health").status_code in (200, 503)
        except httpx2.HTTPError:
            return False

    def state(self, stage: str = "stage2") -> str:
        answer = self.http.get("/info")
        return str(answer.json()[stage]["state"]) if answer.status_code == 200 else "no answer"

    def reason(self, stage: str = "stage2") -> str:
        """Why a stage can not work, empty when it can."""
        answer = self.http.get("/info")
        return str(answer.json()[stage].get("reason") or "") if answer.status_code == 200 else ""

    def told(self, *states: str, since: float, within_s: float = 30) -> float:
        """Seconds after ``since`` until /info and /health say one of these states of Stage 2."""
        wanted = bool({"up", "starting", "zero"} & set(states))

        told: tuple[str, bool] = ("nothing", False)

        def true() -> bool:
            nonlocal told
            told = self.state(), self.http.get("/health").json()["stage2_available"]
            return told[0] in states and told[1] == wanted

        try:
            until(true, within_s)
        except AssertionError as late:
            raise AssertionError(f"{late}: told {told}, wanted one of {states}") from late
        return time.monotonic() - since

    def up(self) -> None:
        """Both stages work."""
        until(self.listens, 60)
        for stage in ("stage1", "stage2"):
            until(lambda name=stage: self.state(name) == "up", 120)

    def rows(self, query: str, *values: Any) -> list[Any]:
        with sqlite3.connect(self.folder / "jobs.db") as rows:
            return rows.execute(query, values).fetchall()


def refused(answer: httpx2.Response, *words: str, code: str = "stage2_unavailable") -> None:
    """A 503 that says what is wrong, what to do and when."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    problem = answer.json()
    assert problem["code"] == code, problem
    assert "again later" in problem["detail"]
    for word in words:
        assert word in problem["detail"], problem


def fell_back(
    stand: Stand, answer: httpx2.Response, *words: str, status: tuple[str, ...] = ("skipped",)
) -> None:
    """Stage 1's result with a preview, and an honest word about Stage 2."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["stage1"]["status"] == "completed"
    assert body["stage2"]["status"] in status, body
    for word in words:
        assert word in body["stage2"]["reason"], body
    preview = stand.http.get(f"/jobs/{body['job_id']}/files/stage1/preview.glb")
    assert preview.content[:4] == b"glTF", body["warnings"]


def whole(stand: Stand, answer: httpx2.Response) -> None:
    """Both stages' result, and this request's own."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["stage1"]["status"], body["stage2"]["status"]) == ("completed", "completed"), body
    seed = stand.look(body["job_id"])["options"]["seed"]
    glb = stand.http.get(f"/jobs/{body['job_id']}/files/stage2/output.glb").content
    assert glb_extras(glb) == {"seed": seed, "stage1_seed": seed}
