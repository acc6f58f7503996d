"""One service for all tests of a module."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# postgres.py, receiver.py
sys.path.insert(0, str(Path(__file__).parents[2] / "serve_app" / "jobs"))

from pair_stand import add_nodes, deploy
from receiver import Receiver
from stand import SECRET, Stand


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("pairs")) as stand:
        add_nodes(stand)
        deploy(stand)
        yield stand


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Of webhooks, which verifies what it gets."""
    made = Receiver(SECRET)
    yield made
    made.close()
