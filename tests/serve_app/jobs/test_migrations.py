"""serve_app/jobs/migrations: any database that a release has left behind, made today's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, text

from deployments.contracts import GenerationOptions
from serve_app.jobs.claims import ClaimStore
from serve_app.jobs.protocol import JobStatus
from serve_app.jobs.store import JobStore
from serve_app.jobs.tables import Database, metadata
from serve_app.options import options_as_json

# As the release before revisions made them, in words that both databases understand.
OLD_TABLES = """
CREATE TABLE jobs (
    id VARCHAR(64) NOT NULL PRIMARY KEY, owner VARCHAR(128) NOT NULL,
    idempotency_key VARCHAR(255), digest VARCHAR(128), status VARCHAR(16) NOT NULL,
    cancel_requested BOOLEAN NOT NULL, attempt INTEGER NOT NULL, counted_fence INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL, fence INTEGER NOT NULL, runner VARCHAR(128),
    lease_until FLOAT NOT NULL, mode VARCHAR(32) NOT NULL, options JSON NOT NULL,
    input_path TEXT NOT NULL, stage1_result TEXT, stage VARCHAR(32), step INTEGER NOT NULL,
    steps INTEGER NOT NULL, last_seq INTEGER NOT NULL, warnings JSON NOT NULL, stage1 JSON,
    stage2 JSON, files JSON NOT NULL, failure JSON, seconds JSON NOT NULL,
    created_at FLOAT NOT NULL, started_at FLOAT, finished_at FLOAT,
    CONSTRAINT one_job_a_key UNIQUE (owner, idempotency_key));
CREATE INDEX jobs_by_turn ON jobs (status, created_at);
CREATE INDEX jobs_by_end ON jobs (finished_at);
CREATE TABLE events (
    job_id VARCHAR(64) NOT NULL, seq INTEGER NOT NULL, time FLOAT NOT NULL,
    kind VARCHAR(16) NOT NULL, body JSON NOT NULL, PRIMARY KEY (job_id, seq));
CREATE TABLE stage_replicas (
    replica VARCHAR(128) NOT NULL PRIMARY KEY, stage VARCHAR(32) NOT NULL, facts JSON NOT NULL,
    restarting BOOLEAN NOT NULL, seen_at FLOAT NOT NULL)
"""
OLD_JOB = text(
    "INSERT INTO jobs (id, owner, status, cancel_requested, attempt, counted_fence, max_attempts,"
    " fence, lease_until, mode, options, input_path, step, steps, last_seq, warnings, files,"
    " seconds, created_at) VALUES (:id, '', 'queued', false, 0, 0, 3, 0, 0, 'official', :options,"
    " 'i', 0, 0, 1, '[]', '{}', '{}', :created_at)"
)


@pytest.fixture
def raw(database_url: str) -> Iterator[Any]:
    """Transactions on the database as anybody may open it."""
    database = Database(database_url)  # makes SQLite's folder
    database.close()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        for table in inspect(connection).get_table_names():
            connection.execute(text(f"DROP TABLE {table}"))
    yield engine.begin
    engine.dispose()


def insert_old_job(connection: Connection, job: str, created_at: float) -> None:
    import json

    options = json.dumps(options_as_json(GenerationOptions()))
    connection.execute(OLD_JOB, {"id": job, "options": options, "created_at": created_at})
    event = "INSERT INTO events VALUES (:id, 1, 0.0, 'queued', '{}')"
    connection.execute(text(event), {"id": job})


def make_old(connection: Connection) -> None:
    for statement in OLD_TABLES.split(";"):
        connection.execute(text(statement))


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, metadata))


def test_a_new_database_is_what_the_code_expects(database_url: str, raw: Any) -> None:
    Database(database_url).close()
    with raw() as connection:
        assert differences(connection) == []


def test_an_old_database_is_adopted_with_its_jobs(database_url: str, raw: Any) -> None:
    with raw() as connection:
        make_old(connection)
        insert_old_job(connection, "a", 1.0)
    database = Database(database_url)
    with raw() as connection:
        assert differences(connection) == []
        assert connection.execute(text("SELECT version_num FROM alembic_version")).all() != []
    store, claims = JobStore(database), ClaimStore(database)
    assert store.get("a").status is JobStatus.QUEUED
    claim = claims.claim("r", 10)
    assert claim is not None
    claims.finish("a", claim.fence, JobStatus.SUCCEEDED, ("result", {}))
    assert [event.kind for event in store.events("a", 0)[0]] == ["queued", "result"]
    database.close()


def test_opening_again_changes_nothing(database_url: str, raw: Any) -> None:
    with raw() as connection:
        make_old(connection)
        insert_old_job(connection, "a", 1.0)
    for _ in range(3):
        database = Database(database_url)
        assert JobStore(database).get("a").status is JobStatus.QUEUED
        database.close()


def test_the_code_before_the_upgrade_may_go_on_inserting(database_url: str, raw: Any) -> None:
    database = Database(database_url)
    with raw() as connection:
        insert_old_job(connection, "late", 1.0)
    claim = ClaimStore(database).claim("r", 10)
    assert claim is not None
    assert claim.job == "late"
    database.close()


def test_replicas_that_start_at_once_upgrade_once(database_url: str, raw: Any) -> None:
    with raw() as connection:
        make_old(connection)
        insert_old_job(connection, "a", 1.0)
    start = threading.Barrier(4)

    def open_one(_: int) -> Database:
        start.wait()
        return Database(database_url)

    with ThreadPoolExecutor(4) as threads:
        for database in threads.map(open_one, range(4)):
            assert JobStore(database).get("a").status is JobStatus.QUEUED
            database.close()
