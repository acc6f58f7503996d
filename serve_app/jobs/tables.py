"""The tables of the jobs room and how their database is opened (serving.md section 4).

A change here needs a revision in ``migrations/versions``; a test holds the two together.

SQLite (one node) and PostgreSQL (several) behave alike: a writing transaction that selects a job
holds it alone. PostgreSQL locks the row and others skip it; SQLAlchemy drops that clause on SQLite,
where every writing transaction begins with ``BEGIN IMMEDIATE`` and so is alone as a whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    false,
    text,
    true,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from deployments.errors import ServiceError
from serve_app.jobs.migrations import bring_up_to_date

BUSY_TIMEOUT_S = 10
SCHEMA_LOCK = 0x53796E63  # any number that all replicas agree on

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(128), nullable=False),  # hash of the API key, empty without keys
    Column("idempotency_key", String(255)),
    Column("digest", String(128)),
    Column("kind", String(16), nullable=False, server_default="generate"),  # or "export"
    Column("parent_id", String(64)),  # of an export: the job whose results it is made from
    Column("priority", Integer, nullable=False, server_default="0"),  # higher comes first
    Column("status", String(16), nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("attempt", Integer, nullable=False),  # runs begun, counted once a fence
    Column("counted_fence", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("fence", Integer, nullable=False),  # rises whenever the work changes hands
    Column("runner", String(128)),
    Column("lease_until", Float, nullable=False),
    Column("mode", String(32), nullable=False),
    Column("options", JSON, nullable=False),
    Column("input_path", Text, nullable=False),
    Column("stage1_result", Text),  # storage path of the MultiviewResult, once it is stored
    Column("stage2_result", Text),  # the same for the Surface, from which exports are made
    Column("stage", String(32)),
    Column("step", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("last_seq", Integer, nullable=False),
    Column("warnings", JSON, nullable=False),
    Column("stage1", JSON),
    Column("stage2", JSON),
    Column("files", JSON, nullable=False),
    Column("failure", JSON),
    Column("seconds", JSON, nullable=False),  # of each stage's finished run
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("keep_for", Float),  # seconds from its end to its expiry, None: for ever
    Column("keep_input", Boolean, nullable=False, server_default=true()),
    Column("expires_at", Float),  # from then on 410, whether swept or not
    Column("input_removed", Boolean, nullable=False, server_default=false()),
    Column("removed_at", Float),  # its files are gone and the row is a tombstone
    Column("sweep_until", Float, nullable=False, server_default="0"),  # lease of a sweeper
    Column("webhook_url", Text),
    Column("webhook_events", JSON(none_as_null=True)),  # kinds of events to tell, of protocol.py
    Column("request_id", String(128)),
    Column("traceparent", String(64)),  # W3C trace context of the request that submitted it
    UniqueConstraint("owner", "idempotency_key", name="one_job_a_key"),
    Index("jobs_by_turn", "status", "priority", "created_at"),
    Index("jobs_by_end", "finished_at"),
    Index("jobs_by_expiry", "expires_at"),
    Index("jobs_of_owner", "owner", "created_at"),
    Index("jobs_by_parent", "parent_id"),
)

events = Table(
    "events",
    metadata,
    Column("job_id", String(64), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("time", Float, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("body", JSON, nullable=False),
)

stage_replicas = Table(
    "stage_replicas",
    metadata,
    Column("replica", String(128), primary_key=True),
    Column("stage", String(32), nullable=False),
    Column("facts", JSON, nullable=False),
    Column("restarting", Boolean, nullable=False),
    Column("seen_at", Float, nullable=False),
)

# Written in the transaction of the event that it tells (rows.py), so that neither can be without
# the other. One that is neither delivered nor has a next_at was given up.
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job_id", String(64), nullable=False),
    Column("event", String(16), nullable=False),
    Column("url", Text, nullable=False),
    Column("body", JSON, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("next_at", Float),
    Column("delivered_at", Float),
    Column("last_status", Integer),  # of the HTTP answer
    Column("last_error", Text),
    Column("created_at", Float, nullable=False),
    Column("lease_until", Float, nullable=False, server_default="0"),
    Column("runner", String(128)),
    Index("deliveries_by_turn", "next_at"),
    Index("deliveries_of_job", "job_id"),
)

key_usage = Table(
    "key_usage",
    metadata,
    Column("key", String(128), primary_key=True),  # hash of the API key
    Column("bucket", Integer, primary_key=True),  # number of the time window
    Column("count", Integer, nullable=False),
)


class Database:
    """Connections to the job tables, which are created or brought up to date on opening.

    :raises ServiceError: ``store_unavailable``, from here and from every transaction.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.embedded = parsed.get_backend_name() == "sqlite"
        if self.embedded and parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = _sqlite(url) if self.embedded else create_engine(url, pool_pre_ping=True)
        with self.writing() as connection:
            if not self.embedded:  # two replicas that start at once must not both change them
                connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": SCHEMA_LOCK})
            bring_up_to_date(connection)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is alone with what it selects for update."""
        with _reported(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that blocks nobody."""
        with _reported(), self._engine.connect() as connection:
            yield connection.execution_options(reading=True)

    def close(self) -> None:
        self._engine.dispose()


def _sqlite(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below and nowhere else
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")

    @event.listens_for(engine, "begin")
    def began(connection: Connection) -> None:
        reading = connection.get_execution_options().get("reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # two writers at once: whoever wrote knows what it means
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise ServiceError(
            f"the job database does not answer: {cause}. Check database_url and its server",
            code="store_unavailable",
        ) from error
