from __future__ import annotations

from pathlib import Path

import pytest
from small_tree import write_tree


@pytest.fixture(scope="session")
def complete_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small tree. Shared: tests that change something copy it first."""
    return write_tree(tmp_path_factory.mktemp("checkpoint") / "tree")
