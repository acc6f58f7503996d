"""A Ray cluster of logical nodes with the service on it, from outside.

with LogicalCluster(folder) as cluster:
    cluster.add_node("first", stage="stage1", gpus=2)
    cluster.deploy(service_config(folder, ...))
    cluster.http.post("/generate", ...)
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.logical.processes import descendants, kill, title

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Replica:
    """One replica as Serve knows it."""

    id: str
    pid: int
    node: str
    state: str


class LogicalCluster:
    """Started by ``with``; everything that it started ends with it.

    :param paths: folders whose modules the replicas can import, besides the repository.
    """

    def __init__(self, folder: Path, *, paths: tuple[Path, ...] = (), head_cpus: int = 4) -> None:
        self.folder = folder
        self.port = _free_port()
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)
        self._paths = (ROOT, *paths)
        self._head_cpus = head_cpus
        self._process: subprocess.Popen[str] | None = None
        self._speaking = threading.Lock()  # a test may watch from another thread

    def __enter__(self) -> LogicalCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.http.close()

    # Life

    def start(self) -> None:
        """Start the head; also after :meth:`lose_power`, on the same port."""
        environment = {
            **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            "PYTHONPATH": os.pathsep.join(str(path) for path in self._paths),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_enable_worker_prestart": "0",
            "OMP_NUM_THREADS": "1",
        }
        with (self.folder / "host.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.logical.host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=self.folder,
                env=environment,
            )
        head = {"num_cpus": self._head_cpus, "labels": {"synchuman.io/front": "true"}}
        self._say({"port": self.port, "head": head})

    def stop(self) -> None:
        """End in order, then by force what is left."""
        if self._process is None:
            return
        everything = self.processes()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # tells it to end
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        kill({pid for pid in everything if "ray" in title(pid) or "benchmarks" in title(pid)})
        self._forget()

    def lose_power(self) -> None:
        """SIGKILL to every process of the cluster at once."""
        assert self._process is not None
        kill(self.processes())
        self._forget()

    def _forget(self) -> None:
        assert self._process is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.__exit__(None, None, None)  # waits, and closes the pipes
        self._process = None

    # Nodes

    def add_node(
        self, name: str, *, stage: str, gpus: float = 1, environment: dict[str, str] | None = None
    ) -> str:
        """A node for one stage's replicas; returns Ray's id of it."""
        return str(
            self._say(
                {
                    "do": "add_node",
                    "name": name,
                    "num_cpus": 4,
                    "num_gpus": gpus,
                    "labels": {f"synchuman.io/{stage}": "true"},
                    **({"env_vars": environment} if environment else {}),
                }
            )
        )

    def remove_node(self, name: str) -> None:
        self._say({"do": "remove_node", "name": name})

    # Serve

    def deploy(self, config: dict[str, Any], *, ready: tuple[str, ...] = ()) -> None:
        """Hand over a config and wait until these applications run."""
        self._say({"do": "deploy", "config": config})
        for application in ready:
            until(lambda name=application: self.application(name) == "RUNNING", 180)

    def details(self) -> Any:
        return self._say({"do": "details"})

    def application(self, name: str) -> str:
        """Serve's word on an application, empty when there is none."""
        return str(self.details()["applications"].get(name, {}).get("status", ""))

    def replicas(self, application: str, deployment: str) -> list[Replica]:
        """Those that run."""
        found = self.details()["applications"].get(application, {}).get("deployments", {})
        replicas = found.get(deployment, {}).get("replicas", [])
        return [
            Replica(one["replica_id"], one["pid"], one["node_id"], one["state"])
            for one in replicas
            if one["state"] == "RUNNING"
        ]

    # Processes

    def processes(self) -> set[int]:
        assert self._process is not None
        return descendants(self._process.pid)

    def titled(self, start: str) -> set[int]:
        """Processes of the cluster by their title, e.g. ``ray::ServeController``."""
        return {pid for pid in self.processes() if title(pid).startswith(start)}

    def replica_pids(self, application: str, deployment: str) -> set[int]:
        begin = f"ray::ServeReplica:{application}:{deployment}"
        return {pid for pid in self.processes() if title(pid).split(".")[0] == begin}

    def kill_one(self, application: str, deployment: str) -> int:
        """SIGKILL to one replica; returns its process id."""
        pid = min(self.replica_pids(application, deployment))
        kill({pid})
        return pid

    def _say(self, message: dict[str, Any]) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._speaking:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the cluster's host has ended: see {self.folder}/host.log")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["ok"]


def until(condition: Callable[[], Any], within_s: float = 30, every_s: float = 0.1) -> Any:
    """The first truthy answer.

    :raises AssertionError: none in time.
    """
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(every_s)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
