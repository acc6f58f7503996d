"""The scripted job service behind real HTTP: uvicorn on a free port, and a wire that can break."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from scripted_jobs import ScriptedJobs
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.contracts import GenerationOptions, Mode
from serve_app.ingress.api import make_api
from serve_app.jobs.protocol import JobPage, JobQuery
from serve_app.manifest import FileFacts, build_manifest
from serve_app.settings import FrontArgs
from serve_app.storage import Storage, open_storage

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
GLB = bytes(range(256)) * 12_000  # 3 MB, several pieces on the wire


class FilledJobs(ScriptedJobs):
    """Jobs whose results have a true manifest and a GLB of some size, in pages of a list."""

    def _finish(self, job_id: str) -> None:
        super()._finish(job_id)
        files = self.views[job_id].files
        if "stage2/output.glb" in files:
            self.storage.write(files["stage2/output.glb"], GLB)
        facts = {}
        for name, place in files.items():
            if name != "manifest.json":
                data = self.storage.read(place)
                facts[name] = FileFacts(len(data), hashlib.sha256(data).hexdigest())
        manifest = build_manifest(
            job_id=job_id,
            checkpoint="scripted",
            options=GenerationOptions(),
            stages={},
            files=facts,
            input_sha256="",
        )
        self.storage.write(files["manifest.json"], manifest)

    async def page(self, query: JobQuery) -> JobPage:
        start = int(query.cursor or 0)
        wanted = [
            v for v in self.views.values() if not query.statuses or v.status in query.statuses
        ]
        end = start + query.limit
        return JobPage(jobs=tuple(wanted[start:end]), next=str(end) if end < len(wanted) else None)


@dataclass
class Wire:
    """Faults between client and service, each used up by the request that it hits.

    ``cuts``: (part of the path, bytes after which the connection is closed).
    ``answers``: (part of the path, status, headers, body) in the service's place.
    """

    app: ASGIApp
    cuts: list[tuple[str, int]] = field(default_factory=list)
    answers: list[tuple[str, int, dict[str, str], bytes]] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append((scope["method"], scope["path"], headers))
        for answer in self.answers:
            if answer[0] in scope["path"]:
                self.answers.remove(answer)
                await _answered(answer, receive, send)
                return
        for cut in self.cuts:
            if cut[0] in scope["path"]:
                self.cuts.remove(cut)
                with contextlib.suppress(_Cut):
                    await self.app(scope, receive, _cutting(send, cut[1]))
                return  # without the rest of the body: uvicorn closes the connection
        await self.app(scope, receive, send)

    def requests(self, method: str, part: str) -> list[dict[str, str]]:
        """Headers of the requests whose path has this part."""
        return [head for verb, path, head in self.seen if verb == method and part in path]


class _Cut(Exception):  # noqa: N818
    """The connection is gone."""


def _cutting(send: Send, after: int) -> Send:
    left = after

    async def sent(message: Message) -> None:
        nonlocal left
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            if len(body) > left:
                await send({**message, "body": body[:left], "more_body": True})
                raise _Cut
            left -= len(body)
        await send(message)

    return sent


async def _answered(
    answer: tuple[str, int, dict[str, str], bytes], receive: Receive, send: Send
) -> None:
    while (await receive()).get("more_body"):
        pass
    _, status, headers, body = answer
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class LiveService:
    """Started in a thread with an event loop of its own."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.storage: Storage = open_storage(folder / "jobs")
        self.jobs = FilledJobs(self.storage, Mode(settings.get("mode", "official")))
        self.wire = Wire(
            make_api(
                self.jobs,
                self.storage,
                FrontArgs(**{"webhook_secret": SECRET, **settings}),
                resolver=_resolved,
            )
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.wire,
                port=0,
                log_level="critical",
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._up = threading.Event()

    @property
    def url(self) -> str:
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def do(self, call: Callable[[], Any]) -> Any:
        """Call something on the service's event loop."""

        async def called() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(10)

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(10)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def _run(self) -> None:
        async def serve() -> None:
            serving = asyncio.ensure_future(self._server.serve())
            while not self._server.started and not serving.done():
                await asyncio.sleep(0.01)
            self._up.set()
            await serving

        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(serve())
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0.05))
        finally:
            self._loop.close()


async def _resolved(host: str, port: int) -> list[str]:
    """Names lead to a public address that nobody asks; numbers are what they are."""
    return [host] if host[:1].isdigit() else ["93.184.216.34"]


@contextlib.contextmanager
def live_service(folder: Path, **settings: Any) -> Iterator[LiveService]:
    service = LiveService(folder, **settings)
    service.start()
    try:
        yield service
    finally:
        service.stop()
