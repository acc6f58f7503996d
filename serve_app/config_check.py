"""Refuses what Serve would silently drop from a configuration file.

Serve's schema ignores keys that it does not know: ``max_ongoing_request`` and ``num_gpu`` pass its
validation and change nothing (serving.md section 3). Here every key is compared with the schema's
fields, the builders' arguments with their models, Serve's own validation runs, and what is left
is looked at for values that contradict each other (config_conflicts.py).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from serve_app.config_conflicts import conflicts
from serve_app.settings import LiveArgs

RECONFIGURABLE = ("Gateway", "Jobs")


def check_file(path: Path | str) -> list[str]:
    """What is wrong with a ``serve run`` / ``serve deploy`` file; empty when nothing is."""
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        return [f"{path} can not be read as YAML: {error}"]
    return check_document(document)


def check_document(document: object) -> list[str]:
    """The same for a parsed document (for example ``serveConfigV2`` of a RayService)."""
    if not isinstance(document, Mapping) or "applications" not in document:
        return ["the document has no 'applications': it must be a multi-application Serve config"]
    problems = list(_unknown_keys(ServeDeploySchema, document, ""))
    for number, application in enumerate(document["applications"] or ()):
        if isinstance(application, Mapping):
            problems += _argument_problems(application, f"applications[{number}]")
    try:
        ServeDeploySchema.model_validate(document)
    except ValidationError as error:
        problems += _validation_problems(error, "")
    return problems or list(conflicts(document))


def _unknown_keys(model: type[BaseModel], value: object, where: str) -> Iterator[str]:
    """Keys of ``value`` that ``model`` does not have, at any depth."""
    if not isinstance(value, Mapping):
        return
    known = set(model.model_fields)
    for key, inner in value.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield f"{path}: Serve has no such key and would ignore it{hint}"
            continue
        nested = _model_in(model.model_fields[key].annotation)
        if nested is None:
            continue
        if isinstance(inner, list):
            for number, item in enumerate(inner):
                yield from _unknown_keys(nested, item, f"{path}[{number}]")
        else:
            yield from _unknown_keys(nested, inner, path)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside ``Optional``, ``Union[dict, Model]``, ``List[Model]``."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(part) for part in typing.get_args(annotation))
    return next((model for model in found if model is not None), None)


def _argument_problems(application: Mapping[str, Any], where: str) -> list[str]:
    """What the builder's argument model and the live settings say about their values."""
    problems: list[str] = []
    try:
        model = _argument_model(str(application.get("import_path", "")))
    except (ImportError, AttributeError, ValueError) as error:
        return [f"{where}.import_path: {error}"]
    if model is not None:
        problems += _validated(model, application.get("args") or {}, f"{where}.args")
    for number, deployment in enumerate(application.get("deployments") or ()):
        if isinstance(deployment, Mapping) and deployment.get("name") in RECONFIGURABLE:
            config = deployment.get("user_config") or {}
            problems += _validated(LiveArgs, config, f"{where}.deployments[{number}].user_config")
    return problems


def _argument_model(import_path: str) -> type[BaseModel] | None:
    """The model that the builder at ``module:builder`` takes; None when it takes a plain dict."""
    module, _, name = import_path.replace(":", ".").rpartition(".")
    builder = getattr(importlib.import_module(module), name)
    if not inspect.isfunction(builder):
        return None
    hints = typing.get_type_hints(builder)
    hints.pop("return", None)
    kinds = [kind for kind in hints.values() if inspect.isclass(kind)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)


def _validated(model: type[BaseModel], values: object, where: str) -> list[str]:
    try:
        model.model_validate(values)
    except ValidationError as error:
        return _validation_problems(error, where)
    return []


def _validation_problems(error: ValidationError, where: str) -> list[str]:
    return [f"{_path(where, fault['loc'])}: {fault['msg']}" for fault in error.errors()]


def _path(where: str, location: Iterable[int | str]) -> str:
    for part in location:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    return where or "document"
