"""The API on a scripted job service, and pictures to send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from sample_pictures import encoded
from scripted_jobs import ScriptedJobs
from starlette.testclient import TestClient

from deployments.contracts import Mode
from serve_app.ingress.api import make_api
from serve_app.settings import FrontArgs
from serve_app.storage import Storage, open_storage

ServiceMaker = Callable[..., "tuple[TestClient, ScriptedJobs]"]


@pytest.fixture(scope="session")
def person() -> bytes:
    """A figure on transparent ground, as PNG."""
    picture = Image.new("RGBA", (256, 512))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((96, 30, 160, 110), fill=(224, 172, 140, 255))
    draw.rectangle((80, 110, 176, 300), fill=(60, 90, 160, 255))
    draw.rectangle((88, 300, 168, 480), fill=(40, 40, 50, 255))
    return encoded(picture, "PNG")


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.chdir(tmp_path)
    return open_storage("tmp_api_jobs")


@pytest.fixture
def make_service(storage: Storage) -> Iterator[ServiceMaker]:
    """Makes an API with settings of the test, as a client of it and the jobs behind it."""
    clients: list[TestClient] = []

    def make(**settings: object) -> tuple[TestClient, ScriptedJobs]:
        jobs = ScriptedJobs(storage, Mode(settings.get("mode", "official")))
        api = make_api(jobs, storage, FrontArgs(**settings))
        client = TestClient(api, raise_server_exceptions=False)
        client.__enter__()  # one event loop for all requests of a test
        clients.append(client)
        return client, jobs

    yield make
    for client in clients:
        client.__exit__(None, None, None)
