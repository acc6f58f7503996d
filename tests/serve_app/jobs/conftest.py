"""A job database in a temporary folder, a clock that stands still, and jobs to put into it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench import Bench
from clock import Clock
from postgres import PostgresServer, available
from sqlalchemy import create_engine, text

from deployments.contracts import GenerationOptions, Mode
from serve_app.jobs import runner, stages
from serve_app.jobs.claims import ClaimStore
from serve_app.jobs.protocol import JobRequest, JobView
from serve_app.jobs.store import JobStore
from serve_app.jobs.tables import Database
from serve_app.options import options_as_json
from serve_app.storage import open_storage


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    # Short and open to the server's own user, as pytest's own folders are not.
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        server = PostgresServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgres"] if available() else ["sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind that this machine has."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data/jobs.db"
    url: str = request.getfixturevalue("postgres").url
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database, clock: Clock) -> JobStore:
    return JobStore(database, clock=clock)


@pytest.fixture
def claims(database: Database, clock: Clock) -> ClaimStore:
    return ClaimStore(database, clock=clock)


Submit = Callable[..., JobView]


@pytest.fixture
def submit(store: JobStore, clock: Clock) -> Submit:
    """Submit a job a second after the one before."""

    def submit_one(
        job_id: str,
        *,
        mode: Mode = Mode.OFFICIAL,
        max_attempts: int = 3,
        key_kept_s: float = 1000.0,
        **request: object,
    ) -> JobView:
        clock.now += 1
        values: dict[str, object] = {
            "job_id": job_id,
            "input_path": f"{job_id}/input.png",
            "options": options_as_json(GenerationOptions(mode=mode)),
            **request,
        }
        view, _ = store.submit(
            JobRequest.model_validate(values),
            max_attempts=max_attempts,
            max_queued=100,
            max_queued_of_owner=2,
            key_kept_s=key_kept_s,
        )
        return view

    return submit_one


@pytest.fixture
def bench(
    store: JobStore,
    claims: ClaimStore,
    tmp_path: Path,
    submit: Submit,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    """Runs jobs without pauses."""
    monkeypatch.setattr(runner, "BEFORE_RETRY_S", 0)
    monkeypatch.setattr(stages, "LOOK_AGAIN_S", 0.02)
    monkeypatch.setattr(stages, "BEFORE_NEXT_TRY_S", 0.01)
    return Bench(store, claims, open_storage(tmp_path / "jobs"), submit)
