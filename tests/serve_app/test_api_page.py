"""serve_app/API.md: its tables name the fields, routes and codes that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import serve_app
from serve_app.ingress import generate, jobs, results, status, watching
from serve_app.ingress.problems import STATUS_BY_CODE, status_of
from serve_app.ingress.schemas import GenerateForm
from serve_app.options import RequestOptions

PAGE = (Path(serve_app.__file__).parent / "API.md").read_text(encoding="utf-8")
NAMES = r"`([a-z_0-9]+)`"

# Codes that follow from the class of the error, or that the framework's own answers get.
KINDS = {
    "preprocess_unavailable": "StageUnavailable",
    "export_unavailable": "StageUnavailable",
    "preprocess_failed": "GenerationError",
    "preview_failed": "GenerationError",
    "empty_structure": "GenerationError",
    "empty_mesh": "GenerationError",
    "nothing_to_bake": "GenerationError",
    "not_finite": "GenerationError",
    "latent_not_finite": "GenerationError",
    "mesh_not_finite": "GenerationError",
}
FRAMEWORK = {"method_not_allowed": 405}


def section(title: str) -> str:
    """The text below one heading of the second level."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """Cells of the table rows in a section, heads left out."""
    lines = re.findall(r"^\| (`.*) \|$", section(title), flags=re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


CODES = {code: int(cells[1]) for cells in rows("Errors") for code in re.findall(NAMES, cells[0])}


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_has_its_status(code: str) -> None:
    assert code in STATUS_BY_CODE or code in KINDS or code in FRAMEWORK
    expected = FRAMEWORK.get(code) or status_of(code, KINDS.get(code))
    assert CODES[code] == expected


def test_every_field_of_the_form_is_described() -> None:
    described = [re.findall(NAMES, cells[0])[0] for cells in rows("POST /generate")]
    assert sorted(described) == sorted(GenerateForm.model_fields)


def test_the_ranges_are_those_that_are_checked() -> None:
    schema = RequestOptions.model_json_schema()["properties"]
    for cells in rows("POST /generate"):
        numbers = re.fullmatch(r"([\d.]+) to ([\d.]+)", cells[2])
        if numbers:
            option = next(part for part in schema[cells[0].strip("`")]["anyOf"] if "type" in part)
            assert (option["minimum"], option["maximum"]) == tuple(map(float, numbers.groups()))


def test_every_route_is_described() -> None:
    routes = {
        f"{method} {route.path.replace(':path', '')}"
        for router in (status.router, generate.router, jobs.router, watching.router, results.router)
        for route in router.routes
        for method in route.methods
    }
    described = {
        entry for cells in rows("Endpoints") for entry in re.findall(r"`([A-Z]+ /[^`]*)`", cells[0])
    }
    assert described == routes | {"GET /docs", "GET /openapi.json"}
