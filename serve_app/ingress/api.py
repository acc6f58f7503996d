"""The whole HTTP surface as one application, made for a job service and a storage. No Ray in it."""

from __future__ import annotations

import re
import secrets
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.ingress import generate, jobs, problems, results, status, watching
from serve_app.ingress.fetch import Resolver, system_resolver
from serve_app.ingress.keys import KeyGuard
from serve_app.ingress.room import Room
from serve_app.ingress.schemas import GenerateForm, JobJson
from serve_app.ingress.upload import BodyLimit
from serve_app.jobs.protocol import JobService
from serve_app.settings import FrontArgs
from serve_app.storage import Storage

DESCRIPTION = """One photo of a person in, a textured 3D human (GLB) out.

Failures are RFC 9457 problems (`application/problem+json`) with a stable `code`.
"""
EXPOSED = (
    "X-Job-Id",
    "X-Request-ID",
    "Location",
    "Retry-After",
    "ETag",
    "Content-Disposition",
    "Content-Range",
)
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def make_api(
    service: JobService,
    storage: Storage,
    settings: FrontArgs,
    *,
    resolver: Resolver = system_resolver,
    echo_request_id: bool = True,
) -> FastAPI:
    """The application. ``api.state.room.settings`` may be replaced while it runs.

    :param resolver: how names in an ``image_url`` become addresses.
    :param echo_request_id: False where the server in front already returns the id (Ray Serve).
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
    api.add_middleware(KeyGuard, keys=lambda: room.keys)
    api.add_middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        allow_credentials=False,
        expose_headers=list(EXPOSED),
    )
    api.add_middleware(EveryResponse, echo_request_id=echo_request_id)
    api.openapi = lambda: _openapi(api)  # type: ignore[method-assign]
    return api


class EveryResponse:
    """ASGI middleware: a request id for log and answer, and no guessing of content types."""

    def __init__(self, app: ASGIApp, *, echo_request_id: bool) -> None:
        self.app = app
        self.echo_request_id = echo_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if REQUEST_ID.fullmatch(asked) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id

        async def completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                if self.echo_request_id:
                    headers["X-Request-ID"] = request_id
            await send(message)

        await self.app(scope, receive, completed)


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
