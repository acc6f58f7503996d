"""Mixed requests for minutes while replicas are killed at random: what came of every request.

    python benchmarks/soak.py --minutes 20 > soak.json

Paced stages on logical GPUs (benchmarks/logical), everything else is the product. A client that is
cut off repeats its request with the same Idempotency-Key. At the end every request must have had an
answer of an expected kind (``wrong`` and ``lost`` are empty), and memory of the cluster's processes
is compared with that after the first minute.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import random
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.logical.cluster import ROOT, LogicalCluster, until
from benchmarks.logical.config import FrontSize, StageSize, service_config
from benchmarks.logical.processes import kill, resident_bytes
from benchmarks.logical.stages import glb_extras

PICTURE = (ROOT / "serve_app" / "sample" / "person.png").read_bytes()
CLIENTS = 6
SETTLED_S = 60
KILL_EVERY_S = (12, 30)
GIVE_UP_S = 240
VICTIMS = {  # how often each is killed, compared with the others
    ("stage1", "Stage1"): 4,
    ("stage2", "Stage2"): 4,
    ("front", "Jobs"): 2,
    ("front", "Gateway"): 2,
    ("front", "Preprocess"): 1,
    ("", "ray::ServeController"): 1,
    ("", "ray::ProxyActor"): 1,
}
KINDS = {"official": 5, "graceful": 4, "stage1": 2, "job": 4, "cancelled": 2, "bad": 2}
MODES = {"graceful": {"graceful_fallback": "true"}, "stage1": {"stage1_only": "true"}}


class Soak:
    """The clients and what they saw."""

    def __init__(self, cluster: LogicalCluster) -> None:
        self.cluster = cluster
        self.over = threading.Event()
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.repeated = 0
        self._seeds = itertools.count(1)
        self._lock = threading.Lock()

    def client(self, number: int) -> None:
        chance = random.Random(number)
        with httpx2.Client(base_url=self.cluster.http.base_url, timeout=180) as http:
            while not self.over.is_set():
                kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
                seed = next(self._seeds)
                try:
                    answer = getattr(self, f"_{kind}", self._generate)(http, kind, seed)
                except TimeoutError as error:
                    self.lost.append(f"{kind} {seed}: {error}")
                    continue
                with self._lock:
                    self.answers[f"{kind}: {answer}"] += 1

    def _generate(self, http: httpx2.Client, kind: str, seed: int) -> str:
        fields = {"seed": str(seed), "texture_size": "256", **MODES.get(kind, {})}
        answer = self._sent(http, "/generate", fields, seed)
        if answer.status_code != 200:
            return self._problem(kind, answer)
        return self._result(http, seed, answer.json())

    def _job(self, http: httpx2.Client, kind: str, seed: int) -> str:
        answer = self._sent(http, "/jobs", {"seed": str(seed)}, seed)
        if answer.status_code != 202:
            return self._problem(kind, answer)
        view = self._ended(http, answer.json()["job_id"])
        if view["status"] != "succeeded":
            return f"{view['status']} {(view['error'] or {}).get('code')}"
        return self._result(http, seed, view)

    def _cancelled(self, http: httpx2.Client, kind: str, seed: int) -> str:
        answer = self._sent(http, "/jobs", {"seed": str(seed)}, seed)
        if answer.status_code != 202:
            return self._problem(kind, answer)
        job = answer.json()["job_id"]
        time.sleep(random.uniform(0, 2))
        gone = self._asked(lambda: http.delete(f"/jobs/{job}"))
        if gone.status_code not in (200, 202):
            return self._problem(kind, gone)

        def ended() -> bool:
            look = self._asked(lambda: http.get(f"/jobs/{job}"))
            final = ("succeeded", "failed", "cancelled")
            return look.status_code in (404, 410) or look.json()["status"] in final

        self._until(ended, job)
        return "gone"

    def _bad(self, http: httpx2.Client, kind: str, seed: int) -> str:
        answer = self._sent(http, "/generate", {"seed": str(seed), "stage1_steps": "7"}, seed)
        if answer.status_code != 422:
            self.wrong.append(f"{kind} {seed}: {answer.status_code}")
        return str(answer.status_code)

    def _sent(
        self, http: httpx2.Client, path: str, fields: dict[str, str], seed: int
    ) -> httpx2.Response:
        """One request, repeated with its key until it has an answer."""
        key = {"Idempotency-Key": f"soak-{seed}"}
        return self._asked(
            lambda: http.post(path, files={"image": ("p.png", PICTURE)}, data=fields, headers=key)
        )

    def _asked(self, call: Any) -> httpx2.Response:
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            try:
                answer: httpx2.Response = call()
            except httpx2.HTTPError:
                answer = httpx2.Response(500)
            problem = answer.headers.get("Content-Type") == "application/problem+json"
            away = answer.status_code == 503 and problem and "store" in answer.json()["code"]
            if answer.status_code != 500 and not away and (problem or answer.status_code < 500):
                return answer
            self.repeated += 1  # cut off, or its Gateway died
            time.sleep(1)
        raise TimeoutError("no answer")

    def _ended(self, http: httpx2.Client, job: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def final() -> bool:
            answer = self._asked(lambda: http.get(f"/jobs/{job}"))
            found.update(answer.json())
            return found["status"] in ("succeeded", "failed", "cancelled")

        self._until(final, job)
        return found

    def _until(self, condition: Any, job: str) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job} does not end")
            time.sleep(0.5)

    def _problem(self, kind: str, answer: httpx2.Response) -> str:
        body = answer.json()
        if answer.status_code != 503 or "Retry-After" not in answer.headers:
            self.wrong.append(f"{kind}: {answer.status_code} {body}")
        return f"{answer.status_code} {body.get('code')}"

    def _result(self, http: httpx2.Client, seed: int, body: dict[str, Any]) -> str:
        """Whether the archive is whole and this request's own."""
        answer = self._asked(lambda: http.get(f"/jobs/{body['job_id']}/result.zip"))
        with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
            files = {name: packed.read(name) for name in packed.namelist()}
        status = str(body["stage2"]["status"])
        right = json.loads(files["manifest.json"])["seed"] == seed
        if status == "completed":
            extras = glb_extras(files["stage2/output.glb"])
            right = right and extras == {"seed": seed, "stage1_seed": seed}
        elif "stage1/preview.glb" not in files:
            right = False
        if not right:
            self.wrong.append(f"{seed}: {body}")
        return f"stage2 {status}"


def killer(soak: Soak, kills: Counter[str]) -> None:
    chance = random.Random(7)
    while not soak.over.wait(chance.uniform(*KILL_EVERY_S)):
        application, name = chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        cluster = soak.cluster
        pids = cluster.replica_pids(application, name) if application else cluster.titled(name)
        if pids:
            kill({chance.choice(sorted(pids))})
            kills[name.removeprefix("ray::")] += 1


def memory_mb(cluster: LogicalCluster) -> dict[str, int]:
    """Of all processes, and of those that must not grow."""
    parts = {
        "all": cluster.processes(),
        "Jobs": cluster.replica_pids("front", "Jobs"),
        "Gateway": cluster.replica_pids("front", "Gateway"),
        "controller": cluster.titled("ray::ServeController"),
        "proxy": cluster.titled("ray::ProxyActor"),
    }
    return {name: resident_bytes(pids) // 1_000_000 for name, pids in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    given = parser.parse_args()
    kills: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="soak") as folder,
        LogicalCluster(Path(folder)) as cluster,
    ):
        for stage in ("stage1", "stage2"):
            cluster.add_node(stage, stage=stage, gpus=2)
        pair = StageSize(1.0, replicas=2)
        front = FrontSize(gateways=2, args={"lease_s": 8})
        cluster.deploy(
            service_config(cluster.folder, pair, pair, front),
            ready=("front", "stage1", "stage2"),
        )
        until(lambda: cluster.http.get("/health").status_code == 200, 60)
        soak = Soak(cluster)
        clients = [threading.Thread(target=soak.client, args=(n,)) for n in range(CLIENTS)]
        began = time.monotonic()
        for client in clients:
            client.start()
        time.sleep(SETTLED_S)
        before = memory_mb(cluster)
        chaos = threading.Thread(target=killer, args=(soak, kills))
        chaos.start()
        time.sleep(max(0.0, given.minutes * 60 - SETTLED_S))
        soak.over.set()
        for thread in [*clients, chaos]:
            thread.join(GIVE_UP_S)
        soak.lost += [f"{client.name} hangs" for client in clients if client.is_alive()]
        took = time.monotonic() - began
        time.sleep(10)
        after = memory_mb(cluster)
    summary = {
        "minutes": round(took / 60, 1),
        "requests": sum(soak.answers.values()),
        "answers": dict(sorted(soak.answers.items())),
        "repeated_after_a_cut": soak.repeated,
        "kills": dict(kills),
        "wrong": soak.wrong,
        "lost": soak.lost,
        "memory_mb": {"after a minute": before, "at the end": after},
    }
    print(json.dumps(summary, indent=2))
    sys.exit(bool(soak.wrong or soak.lost))


if __name__ == "__main__":
    main()
