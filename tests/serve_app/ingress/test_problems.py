"""serve_app/ingress/problems.py: every code of the project has its status."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import deployments
import serve_app
from deployments import errors
from serve_app.ingress.problems import (
    STATUS_BY_CODE,
    STATUS_BY_KIND,
    TITLES,
    problem_response,
    status_of,
)


def raised_codes() -> Iterator[tuple[str, str]]:
    """(class, code) of every ``Error(..., code="...")`` in the source."""
    for package in (deployments, serve_app):
        for path in Path(str(package.__path__[0])).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                for keyword in node.keywords:
                    if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                        yield node.func.id, keyword.value.value


def test_what_the_client_did_is_told_as_such() -> None:
    blamed = {code for kind, code in raised_codes() if kind == "InputError"}
    assert {"image_missing", "no_subject"} <= blamed
    for code in blamed:
        assert 400 <= status_of(code, "InputError") < 500, code


def test_what_the_service_lacks_is_no_fault_of_the_client() -> None:
    for kind, code in raised_codes():
        if kind in ("StageUnavailable", "BackendError", "CheckpointError", "GenerationError"):
            assert status_of(code, kind) >= 500, code


def test_every_class_and_status_is_known() -> None:
    kinds = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert kinds - {"SyncHumanError"} == set(STATUS_BY_KIND)
    assert {*STATUS_BY_CODE.values(), *STATUS_BY_KIND.values()} <= set(TITLES)


def test_a_code_wins_over_a_class() -> None:
    assert status_of("queue_full", "ServiceError") == 429
    assert status_of("a_new_code", "InputError") == 400
    assert status_of("a_new_code", None) == 500


@pytest.mark.parametrize("status", [429, 503])
def test_who_shall_come_again_hears_when(status: int) -> None:
    assert problem_response(status, "x", "y").headers["retry-after"] == "30"
    sooner = problem_response(status, "x", "y", retry_after=2.5)
    assert sooner.headers["retry-after"] == "2"
    assert "retry_after" not in json.loads(sooner.body)


def test_members_that_json_does_not_know_become_text() -> None:
    body = json.loads(problem_response(400, "x", "y", path=Path("/a"), size=3).body)
    assert (body["path"], body["size"]) == ("/a", 3)
