"""One Ray cluster and one service for the whole run: the real graph with the small checkpoint."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from running_service import ROOT, Service, until


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray with eight logical CPUs, whatever the machine has."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.pop("RAY_ADDRESS", None)
    import ray
    from ray import serve

    ray.init(address="local", num_cpus=8, num_gpus=0, include_dashboard=False, log_to_driver=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    os.environ["SYNCHUMAN_TEST_PORT"] = str(port)
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="session")
def whole_service(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("service"), int(os.environ["SYNCHUMAN_TEST_PORT"]))
    service.deploy_stage1()
    service.deploy_stage2()
    service.deploy_front()
    with service.http:
        yield service


@pytest.fixture
def service(whole_service: Service) -> Service:
    """The service with all stages up, however the test before left it."""
    for stage in ("stage1", "stage2"):
        until(lambda name=stage: whole_service.stage_state(name) == "up", 60)
    return whole_service
