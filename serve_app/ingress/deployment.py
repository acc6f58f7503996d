"""HTTP on Ray Serve: the application of api.py with the jobs room behind a handle."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import context
from ray.serve.handle import DeploymentHandle

from serve_app.ingress.api import make_api
from serve_app.jobs.remote import RemoteJobs
from serve_app.metrics.recorder import RayRecorder
from serve_app.settings import FrontArgs, LiveArgs
from serve_app.storage import open_storage
from serve_app.tracing import open_tracer

log = logging.getLogger("ray.serve")


@serve.deployment(
    name="Gateway",
    max_ongoing_requests=200,
    max_queued_requests=400,
    backpressure_config={"status_code": 503, "retry_after_s": 10},
    health_check_period_s=10,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=660,
    ray_actor_options={"num_cpus": 0.2},
)
@serve.ingress()
class Gateway:
    """Takes requests in, waits for their jobs, hands files out. Holds nothing that must survive."""

    def __init__(self, args: FrontArgs, jobs: DeploymentHandle) -> None:
        self._api = make_api(
            RemoteJobs(jobs),
            open_storage(args.storage_url),
            args,
            recorder=RayRecorder(),
            tracer=open_tracer(args.trace_endpoint, args.trace_ratio),
            server_request_id=lambda: context._get_serve_request_context().request_id,
        )
        if (keys := self._api.state.room.keys) is not None:
            keys.check()
        log.info("SyncHuman listens on %s in mode %s", _address(), args.mode.value)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._api

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Change limits and mode without a restart (``user_config`` of the YAML)."""
        room = self._api.state.room
        live = LiveArgs.model_validate(
            {**room.settings.model_dump(include=set(LiveArgs.model_fields)), **user_config}
        )
        room.settings = room.settings.model_copy(update=live.model_dump())


def _address() -> str:
    """Where the proxies of this Serve instance listen; only its own client knows."""
    http = context._get_global_client().http_config
    return f"http://{http.host}:{http.port}{http.root_path}"
