"""Values of a configuration file that are right each by itself and wrong together.

``config_check`` looks at keys and ranges; here is what would show only while the service runs: jobs
that a drain cuts, a queue that autoscaling never sees, an API key's limit that nobody understands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from serve_app.ingress.keys import read_keys
from serve_app.settings import FrontArgs
from serve_app.tracing import INSTALL, has_exporter

JOBS_GRACE_S = 660.0  # of the class, where the file names none
FRONT = "serve_app.app:front"


def conflicts(document: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a document whose keys and values are right, each with its place."""
    applications = [one for one in document.get("applications") or () if isinstance(one, Mapping)]
    sizes = {
        deployment.get("name"): deployment
        for application in applications
        for deployment in application.get("deployments") or ()
        if isinstance(deployment, Mapping)
    }
    names = {application.get("name") for application in applications}
    for number, application in enumerate(applications):
        args = application.get("args") or {}
        if not isinstance(args, Mapping):
            continue
        where = f"applications[{number}].args"
        if args.get("trace_endpoint") and not has_exporter():
            yield (
                f"{where}.trace_endpoint: spans need OpenTelemetry's OTLP exporter, which is not "
                f"there. {INSTALL}"
            )
        if application.get("import_path") == FRONT:
            yield from _front(where, args, sizes, names)


def _front(
    where: str, args: Mapping[str, Any], sizes: Mapping[Any, Mapping[str, Any]], names: set[Any]
) -> Iterator[str]:
    jobs, stage1 = sizes.get("Jobs", {}), sizes.get("Stage1")
    replicas = _most(jobs)
    if replicas > 1 and str(args.get("database_url", "")).startswith("sqlite"):
        yield (
            f"{where}.database_url: SQLite is a file on one node and Jobs may have {replicas} "
            "replicas. Set num_replicas of Jobs to 1, or database_url to a PostgreSQL server"
        )
    drain, grace = (
        _setting(args, "drain_s"),
        float(jobs.get("graceful_shutdown_timeout_s", JOBS_GRACE_S)),
    )
    if drain >= grace:
        yield (
            f"{where}.drain_s is {drain:g} and Serve kills Jobs after graceful_shutdown_timeout_s, "
            f"{grace:g}. Let it be the smaller one"
        )
    driven = _setting(args, "runner_concurrency") * max(1, replicas)
    if stage1 is not None and _most(stage1) > 1 and driven <= _most(stage1):
        yield (
            f"{where}.runner_concurrency: {driven:g} jobs are driven at once and Stage1 may have "
            f"{_most(stage1)} replicas, so autoscaling never sees a queue. Set it to twice as many"
        )
    app = str(args.get("stage1_app", "stage1"))
    if app not in names:
        yield f"{where}.stage1_app: the file has no application {app!r}; every mode needs Stage 1"
    keys = args.get("api_keys_file")
    if keys and Path(keys).is_file():  # a Secret is there only on its nodes
        _, wrong = read_keys(Path(keys).read_text(encoding="utf-8", errors="replace"))
        yield from (f"{where}.api_keys_file: {problem}" for problem in wrong)


def _setting(args: Mapping[str, Any], name: str) -> float:
    return float(args.get(name, FrontArgs.model_fields[name].default))


def _most(deployment: Mapping[str, Any]) -> int:
    """The largest number of replicas that a deployment may have."""
    scaling = deployment.get("autoscaling_config")
    most = scaling.get("max_replicas", 1) if isinstance(scaling, Mapping) else None
    return int(most or deployment.get("num_replicas") or 1)
