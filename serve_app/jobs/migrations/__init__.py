"""The history of the job tables, as Alembic revisions, and the way from any of them to the newest.

A revision only adds what may be missing: while a service is replaced, the code before it still
writes to the same tables.
"""

from __future__ import annotations

import threading

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

FIRST = "0001"  # the tables as they were before their revisions were counted

_one_at_a_time = threading.Lock()  # Alembic keeps the running migration in module variables


def bring_up_to_date(connection: Connection) -> None:
    """Create or upgrade the tables inside this transaction, which holds the schema's lock."""
    config = Config()
    config.set_main_option("script_location", "serve_app.jobs:migrations")
    config.attributes["connection"] = connection
    with _one_at_a_time:
        uncounted = MigrationContext.configure(connection).get_current_revision() is None
        if uncounted and inspect(connection).has_table("jobs"):
            command.stamp(config, FIRST)
        command.upgrade(config, "head")
