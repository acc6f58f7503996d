"""Both clients of a live service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from both import Awaiting, Blocking
from live_service import LiveService


@pytest.fixture(params=[Blocking, Awaiting])
def client(request: pytest.FixtureRequest, service: LiveService) -> Iterator[Blocking | Awaiting]:
    made = request.param(service.url)
    yield made
    made.finish()
