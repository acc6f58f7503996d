"""``synchuman generate *.png --url http://host``: pictures through a running service.

Every picture is a job of its own. Beside its result lies what a second run of the same command
needs to go on: the job, and the Idempotency-Key made of picture and options. So an interrupted run
finds its jobs again, fetches what has ended meanwhile, and sends no picture twice.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from deployments.errors import InputError, SyncHumanError
from serve_app.cli.arguments import result_folders
from serve_app.client import (
    AsyncClient,
    ClientError,
    JobEvent,
    JobFailed,
    NotThere,
    RequestOptions,
    RequestRefused,
)
from serve_app.client.download import is_complete
from serve_app.settings import ClientArgs
from serve_app.storage.folder import write_whole

NOTE = ".synchuman-job.json"
TRIES = 5  # jobs of earlier runs that failed or are gone, before a picture is given up
HERE_ONLY = ("checkpoint", "device", "attn_backend", "require_kaolin", "matting")


@dataclass(frozen=True)
class Note:
    """What a folder knows of the job that fills it."""

    url: str
    digest: str  # of picture and options
    number: int = 1  # rises when the job before it failed, or is gone
    job_id: str | None = None

    @property
    def key(self) -> str:
        """The Idempotency-Key: the same picture with the same options is the same job."""
        return f"{self.digest[:40]}-{self.number}"

    def next(self) -> Note:
        return replace(self, number=self.number + 1, job_id=None)

    def write(self, folder: Path) -> None:
        write_whole(folder / NOTE, json.dumps(asdict(self), indent=2).encode())

    @classmethod
    def read(cls, folder: Path) -> Note | None:
        """The note of a folder; None without one that can be read."""
        try:
            return cls(**json.loads((folder / NOTE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def run(arguments: argparse.Namespace, options: RequestOptions) -> int:
    """Bring every picture to its result; 0 when all have one.

    :raises InputError: for flags that only work without ``--url``.
    """
    given = [name for name in HERE_ONLY if getattr(arguments, name) is not None]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{flags}: the service decides this. Leave it out, or leave --url out")
    secret = ClientArgs().api_key
    console = Console(stderr=True)
    with _lines(console) as lines:
        batch = Batch(
            arguments.url,
            options,
            lines,
            api_key=None if secret is None else secret.get_secret_value(),
            at_once=arguments.at_once,
            cancel_when_interrupted=arguments.cancel_on_interrupt,
        )
        try:
            failed = asyncio.run(batch.bring(arguments.pictures, arguments.out))
        except KeyboardInterrupt:
            lines.stop()
            jobs = "are cancelled" if arguments.cancel_on_interrupt else "go on"
            print(
                f"interrupted with {batch.unfinished} pictures unfinished; their jobs {jobs}. "
                "The same command goes on from here",
                file=sys.stderr,
            )
            raise
    return 1 if failed else 0


class Batch:
    """Pictures on their way through one service."""

    def __init__(
        self,
        url: str,
        options: RequestOptions,
        lines: Progress,
        *,
        api_key: str | None = None,
        at_once: int = 8,
        cancel_when_interrupted: bool = False,
    ) -> None:
        self.unfinished = 0
        self._url = url.rstrip("/")
        self._options = options
        self._lines = lines
        self._api_key = api_key
        self._at_once = at_once
        self._cancel = cancel_when_interrupted

    async def bring(self, pictures: Sequence[Path], out: Path) -> int:
        """How many pictures have no result at the end. One that fails does not stop the others."""
        works = list(zip(pictures, result_folders(pictures, out), strict=True))
        self.unfinished = len(works)
        room = asyncio.Semaphore(self._at_once)
        async with AsyncClient(self._url, api_key=self._api_key) as client:

            async def one(picture: Path, folder: Path) -> bool:
                async with room:
                    done = await self._one(client, picture, folder)
                self.unfinished -= 1
                return done

            done = await asyncio.gather(*(one(picture, folder) for picture, folder in works))
        return done.count(False)

    async def _one(self, client: AsyncClient, picture: Path, folder: Path) -> bool:
        began = time.monotonic()
        line = Line(self._lines, picture.name)
        try:
            files = await self._result(client, picture, folder, line)
        except (SyncHumanError, OSError) as error:
            self._lines.console.print(f"{picture}: {error}", markup=False, highlight=False)
            return False
        finally:
            line.close()
        seconds = time.monotonic() - began
        told = "all files were there" if files is None else f"{files} files in {seconds:.1f} s"
        print(f"{picture} -> {folder}: {told}")
        return True

    async def _result(
        self, client: AsyncClient, picture: Path, folder: Path, line: Line
    ) -> int | None:
        """Number of files that were fetched; None when all were there."""
        data = await asyncio.to_thread(picture.read_bytes)
        note = self._noted(data, folder)
        known = note.job_id
        if known is not None and await asyncio.to_thread(is_complete, folder, known):
            return None
        for _ in range(TRIES):
            fresh = False
            try:
                if note.job_id is None:
                    line.say("sending")
                    job = await client.submit(data, self._options, idempotency_key=note.key)
                    note = replace(note, job_id=job.job_id)
                    note.write(folder)
                    fresh = not job.status.final
                assert note.job_id is not None
                await self._ended(client, note.job_id, line)
                line.say("fetching")
                return len(await client.download(note.job_id, folder))
            except (JobFailed, RequestRefused) as error:
                over = isinstance(error, JobFailed | NotThere) and note.job_id is not None
                if not over and error.code != "idempotency_conflict":
                    raise  # the picture or the API key is refused: the same again would be, too
                note = note.next()
                note.write(folder)
                if fresh:
                    raise  # this run's own job; the next run makes another
                last: ClientError = error
        raise last

    async def _ended(self, client: AsyncClient, job_id: str, line: Line) -> None:
        try:
            await client.wait(job_id, on_event=line.show)
        except asyncio.CancelledError:
            if self._cancel:
                await client.cancel(job_id)
            raise

    def _noted(self, data: bytes, folder: Path) -> Note:
        """The folder's note if it is of this very request, else a new one."""
        asked = self._options.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        digest = hashlib.sha256(data + json.dumps(asked, sort_keys=True).encode()).hexdigest()
        note = Note.read(folder)
        same = note is not None and (note.url, note.digest) == (self._url, digest)
        return note if note is not None and same else Note(self._url, digest)


class Line:
    """One picture's line of progress."""

    def __init__(self, lines: Progress, name: str) -> None:
        self._lines = lines
        self._task: TaskID = lines.add_task(name, total=None, said="")

    def say(self, what: str) -> None:
        self._lines.update(self._task, said=what, completed=0, total=None)

    def show(self, event: JobEvent) -> None:
        """What an event tells."""
        body: dict[str, Any] = event.body
        if event.kind == "step":
            self._lines.update(
                self._task, said=body["stage"], completed=body["step"], total=body["steps"]
            )
        elif event.kind == "stage":
            self.say(f"{body['stage']} {body['state']}")
        else:
            self.say(event.kind)

    def close(self) -> None:
        self._lines.remove_task(self._task)


def _lines(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<24}"),
        TextColumn("{task.fields[said]:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
