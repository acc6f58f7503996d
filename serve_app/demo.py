"""The whole way once: start the service, send a photo, keep what comes back, stop the service.

    demo_out/answer.json     the JSON answer of POST /generate
    demo_out/result.zip      the ZIP, and beside it what is in it: stage1/ stage2/ manifest.json
    demo_out/preview.png     a contact sheet: five colour views, five normal maps, the GLB from
                             four sides
    demo_out/service.log     what the service said

The service is ``serve run`` on the given configuration, with two things changed: it listens on a
port of its own, and its results and job table go into ``demo_out/service/``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import httpx2
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deployments.errors import ServiceError
from serve_app.contact_sheet import contact_sheet

SAMPLE = Path(__file__).with_name("sample") / "person.png"
START_WITHIN_S = 300.0
DONE_WITHIN_S = 1800.0
STOP_WITHIN_S = 60.0


def run_demo(*, config: Path, out: Path, photo: Path | None = None, port: int | None = None) -> int:
    """Run the demo with visible progress; 0 when a result lies in ``out``.

    :raises ServiceError: ``demo_failed`` when the service does not start or the job does not end
        well; the service is stopped in any case.
    """
    console = Console(stderr=True)
    began = time.monotonic()
    _emptied(out)
    with running_service(config, out, port, console) as url, httpx2.Client(base_url=url) as client:
        request = Request(photo or SAMPLE)
        job = str(request.send(client, headers={"Prefer": "respond-async"}).json()["job_id"])
        _follow(client, job, console)
        # The same request with the same key finds the finished job: these are the very answers
        # that a client which had waited would have got.
        answer = request.send(client).json()
        archive = request.send(client, query={"download": "true"}).content
    (out / "answer.json").write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    (out / "result.zip").write_bytes(archive)
    with zipfile.ZipFile(out / "result.zip") as packed:
        packed.extractall(out)
    with console.status("rendering the contact sheet"):
        (out / "preview.png").write_bytes(contact_sheet(out))
    seconds = time.monotonic() - began
    print(f"done in {seconds:.0f} s: {out / 'preview.png'}, {out / 'result.zip'}")
    return 0


@contextlib.contextmanager
def running_service(config: Path, out: Path, port: int | None, console: Console) -> Iterator[str]:
    """The service as a process of its own; gives its URL and stops it at the end."""
    port = port or free_port()
    own = out / "service"
    own.mkdir(parents=True, exist_ok=True)
    adapted = own / "config.yaml"
    adapted.write_text(yaml.safe_dump(adapt(_read(config), port, own), sort_keys=False))
    log = out / "service.log"
    command = [sys.executable, "-m", "ray.serve.scripts", "run", "--address", "local"]
    with log.open("wb") as output:
        process = launch([*command, str(adapted)], output)
        try:
            url = f"http://127.0.0.1:{port}"
            with console.status(f"starting the service on {url} (log: {log})"):
                _wait_until_healthy(url, process, log)
            yield url
        finally:
            with console.status("stopping the service"):
                stop(process)


def adapt(document: dict[str, Any], port: int, folder: Path) -> dict[str, Any]:
    """A serve configuration with a port and folders of its own."""
    http = {**document.get("http_options", {}), "host": "127.0.0.1", "port": port}
    applications = []
    for application in document["applications"]:
        arguments = dict(application.get("args") or {})
        if "storage_url" in arguments or "database_url" in arguments:
            arguments["storage_url"] = str((folder / "tmp_api_jobs").absolute())
            arguments["database_url"] = f"sqlite:///{(folder / 'jobs.db').absolute()}"
        applications.append({**application, "args": arguments})
    return {**document, "http_options": http, "applications": applications}


def launch(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process in a session of its own, so that Ctrl-C reaches this one, which then stops it.

    It listens to SIGINT even where this one does not: shells start background jobs with SIGINT
    ignored, and children inherit that. ``stop`` would have to kill it then, and what it started
    would stay.
    """
    return subprocess.Popen(
        command,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End ``serve run`` and everything it started. SIGINT is what removes its applications."""
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(
                number
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_WITHIN_S / 2)
    process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _emptied(out: Path) -> None:
    """Take away what an earlier demo left, and nothing else."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("stage1", "stage2", "service"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("answer.json", "result.zip", "preview.png", "manifest.json", "service.log"):
        (out / name).unlink(missing_ok=True)


def _read(config: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ServiceError(
            f"there is no {config}. Run the demo in the repository, or give --config FILE",
            code="demo_failed",
        ) from None
    return document


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _failed(f"the service ended with status {process.returncode}", log)
        if "DEPLOY_FAILED" in log.read_text(errors="replace"):
            raise _failed("an application of the service did not start", log)
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(f"{url}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    raise _failed(f"the service was not ready after {START_WITHIN_S:.0f} s", log)


def _failed(what: str, log: Path) -> ServiceError:
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    return ServiceError(f"{what}; the end of {log} says:\n{tail}", code="demo_failed")


class Request:
    """One ``POST /generate`` that may be sent again: its Idempotency-Key makes it one job."""

    def __init__(self, photo: Path) -> None:
        self._photo = photo
        self._key = secrets.token_hex(16)

    def send(
        self,
        client: httpx2.Client,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Send it, with these headers and this query beside what makes the request."""
        response = client.post(
            "/generate",
            params=dict(query or {}),
            files={"image": (self._photo.name, self._photo.read_bytes())},
            headers={"Idempotency-Key": self._key, **(headers or {})},
            timeout=300,
        )
        _check(response)
        return response


def _follow(client: httpx2.Client, job: str, console: Console) -> None:
    """Show the job's progress until it has ended."""
    bars = Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    shown: dict[str, Any] = {}
    deadline = time.monotonic() + DONE_WITHIN_S
    with bars:
        while time.monotonic() < deadline:
            response = client.get(f"/jobs/{job}", timeout=30)
            _check(response)
            view = response.json()
            stage = view.get("stage")
            if stage is not None:
                for earlier in shown.keys() - {stage}:
                    total = bars.tasks[shown[earlier]].total or 1
                    bars.update(shown[earlier], total=total, completed=total)
                if stage not in shown:
                    shown[stage] = bars.add_task(stage, total=None)
                bars.update(shown[stage], completed=view["step"], total=view["steps"] or None)
            if view["status"] == "succeeded":
                return
            if view["status"] in ("failed", "cancelled"):
                raise ServiceError(
                    f"the job is {view['status']}: {view.get('error')}", code="demo_failed"
                )
            time.sleep(0.5)
    raise ServiceError(f"the job was not done after {DONE_WITHIN_S:.0f} s", code="demo_failed")


def _check(response: httpx2.Response) -> None:
    if response.status_code >= 400:
        raise ServiceError(
            f"the service answered {response.status_code}: {response.text}", code="demo_failed"
        )
