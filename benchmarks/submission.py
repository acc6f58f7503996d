"""How long ``POST /jobs`` takes to answer once the picture is there, and with its upload.

    python -m benchmarks.submission [--database URL] [--clients 8] [--requests 200] [--megabytes 2]

The real jobs room in this process, HTTP on the loopback, files in a temporary folder with fsync,
the store of ``--database`` (SQLite in that folder by default). The stages take no job, so the table
fills: what is timed is the way in.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import uvicorn
from PIL import Image

from serve_app.ingress.api import make_api
from serve_app.jobs.monitor import Sight
from serve_app.jobs.runner import Stages
from serve_app.jobs.service import JobRoom
from serve_app.jobs.stages import StageCaller
from serve_app.jobs.tables import Database
from serve_app.settings import FrontArgs
from serve_app.storage import open_storage

STAGES = ("preprocess", "stage1", "stage2", "preview", "export")


def photo(megabytes: float) -> bytes:
    """A JPEG of noise, so that its size follows from its pixels."""
    side = int((megabytes * 1e6 / 0.63) ** 0.5)
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=75)
    return file.getvalue()


def no_stage(*_: Any) -> Any:
    raise RuntimeError("no job is claimed in this benchmark")


class AfterUpload:
    """Seconds from the last byte of a request to the first of its answer."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.seconds: list[float] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        arrived = 0.0

        async def received() -> Any:
            nonlocal arrived
            message = await receive()
            arrived = time.perf_counter()
            return message

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.seconds.append(time.perf_counter() - arrived)
            await send(message)

        await self.app(scope, received if scope["type"] == "http" else receive, sent)


def told(what: str, seconds: list[float]) -> None:
    cuts = statistics.quantiles(seconds, n=20)
    print(
        f"{what}: median {1000 * cuts[9]:.1f} ms, 95 % under {1000 * cuts[18]:.1f} ms, "
        f"slowest {1000 * max(seconds):.1f} ms"
    )


async def measure(options: argparse.Namespace) -> None:
    """Send the requests and print the distribution of their seconds."""
    with tempfile.TemporaryDirectory() as folder:
        url = options.database or f"sqlite:///{folder}/jobs.db"
        args = FrontArgs(database_url=url, max_queued_jobs=10**6, max_queued_jobs_per_key=10**6)
        storage, database = open_storage(Path(folder) / "files"), Database(url)
        sight = Sight(status="HEALTHY", running=1, coming=0, message="", since=0.0)
        room = JobRoom(
            "benchmark",
            args,
            database,
            storage,
            Stages(**{name: StageCaller(name, no_stage) for name in STAGES}),
            look=lambda: dict.fromkeys(STAGES, sight),
            applications=dict.fromkeys(STAGES, "app"),
        )
        api = AfterUpload(make_api(room, storage, args))
        server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="warning"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        picture, seconds = photo(options.megabytes), []

        async def client(number: int) -> None:
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                for _ in range(options.requests // options.clients):
                    began = time.perf_counter()
                    answer = await http.post("/jobs", files={"image": ("p.jpg", picture)})
                    seconds.append(time.perf_counter() - began)
                    assert answer.status_code == 202, answer.text

        began = time.perf_counter()
        await asyncio.gather(*(client(number) for number in range(options.clients)))
        whole = time.perf_counter() - began
        server.should_exit = True
        await serving
        database.close()
        print(
            f"{len(seconds)} requests of {len(picture) / 1e6:.1f} MB from {options.clients} "
            f"clients at once, {len(seconds) / whole:.0f} a second"
        )
        told("after the upload", api.seconds)
        told("with the upload", seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--megabytes", type=float, default=2.0)
    asyncio.run(measure(parser.parse_args()))
