"""The whole HTTP surface as one application, made for a job service and a storage. No Ray in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

from serve_app.address_guard import Resolver, system_resolver
from serve_app.ingress import generate, jobs, problems, results, status, watching
from serve_app.ingress.envelope import Envelope
from serve_app.ingress.keys import KeyGuard
from serve_app.ingress.limits import KeyLimits
from serve_app.ingress.room import Room
from serve_app.ingress.schemas import GenerateForm, JobJson
from serve_app.ingress.upload import BodyLimit
from serve_app.jobs.protocol import JobService
from serve_app.metrics.recorder import NoRecorder, Recorder
from serve_app.settings import FrontArgs
from serve_app.storage import Storage
from serve_app.tracing import NoTracer, Tracer

DESCRIPTION = """One photo of a person in, a textured 3D human (GLB) out.

Failures are RFC 9457 problems (`application/problem+json`) with a stable `code`.
"""
EXPOSED = (
    "X-Job-Id",
    "X-Request-ID",
    "Location",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "ETag",
    "Content-Disposition",
    "Content-Range",
)


def make_api(
    service: JobService,
    storage: Storage,
    settings: FrontArgs,
    *,
    resolver: Resolver = system_resolver,
    recorder: Recorder | None = None,
    tracer: Tracer | None = None,
    server_request_id: Callable[[], str] | None = None,
) -> FastAPI:
    """The application. ``api.state.room.settings`` may be replaced while it runs.

    :param resolver: how names in an ``image_url`` become addresses.
    :param server_request_id: the id of the current request where the server in front returns one
        by itself (Ray Serve).
    """
    api = FastAPI(
        title=status.SERVICE,
        version=status.VERSION,
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        redoc_url=None,
    )
    room = Room(service, storage, settings, resolver)
    api.state.room = room
    problems.install(api)
    for router in (status.router, generate.router, jobs.router, watching.router, results.router):
        api.include_router(router)
    api.add_middleware(problems.UnexpectedErrors)
    api.add_middleware(BodyLimit, max_bytes=lambda: room.max_upload_bytes)
    api.add_middleware(KeyLimits, room=lambda: room)
    api.add_middleware(KeyGuard, keys=lambda: room.keys)
    api.add_middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        allow_credentials=False,
        expose_headers=list(EXPOSED),
    )
    api.add_middleware(
        Envelope,
        recorder=recorder or NoRecorder(),
        tracer=tracer or NoTracer(),
        server_request_id=server_request_id,
    )
    api.openapi = lambda: _openapi(api)  # type: ignore[method-assign]
    return api


def _openapi(api: FastAPI) -> dict[str, Any]:
    """The schema with the problem and the bodies that routes parse by themselves."""
    if api.openapi_schema is None:
        schema = get_openapi(
            title=api.title,
            version=api.version,
            description=api.description,
            license_info=api.license_info,
            routes=api.routes,
        )
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        for model in (problems.Problem, GenerateForm, JobJson):
            made = model.model_json_schema(ref_template="#/components/schemas/{model}")
            for name, part in made.pop("$defs", {}).items():
                schemas.setdefault(name, part)
            schemas.setdefault(model.__name__, made)
        api.openapi_schema = schema
    return api.openapi_schema
