"""configs/docker: the rules that both images follow, and the script that a pod ends with.

No image is built here. The Dockerfiles are read as text, the script runs with stand-ins for the two
programs that it calls.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[2] / "configs" / "docker"
ROOT = DOCKER.parents[1]
NAMES = ["Dockerfile", "Dockerfile.cpu"]


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / name).read_text(encoding="utf-8"), flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    words = [line.partition(" ") for line in lines if line.strip()]
    return [(instruction, rest.strip()) for instruction, _, rest in words]


def values(name: str, instruction: str) -> list[str]:
    return [rest for found, rest in instructions(name) if found == instruction]


@pytest.mark.parametrize("name", NAMES)
def test_the_service_does_not_run_as_root(name: str) -> None:
    assert values(name, "USER")[-1] == "1000:1000"
    last_root_step = max(i for i, (word, _) in enumerate(instructions(name)) if word == "RUN")
    assert ("USER", "1000:1000") in instructions(name)[last_root_step:]


@pytest.mark.parametrize("name", NAMES)
def test_no_weights_are_baked_in(name: str) -> None:
    assert not any("models pull" in step for step in values(name, "RUN"))
    sources = [source for rest in values(name, "COPY") for source in rest.split()[:-1]]
    copied = [source for source in sources if not source.startswith("--")]
    assert {"serve_app", "deployments"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
    assert "HF_HOME=/weights" in " ".join(values(name, "ENV")).split()


def test_both_images_can_talk_to_each_other() -> None:
    """Ray compares Python's and its own version, and pickled arrays need one numpy."""
    gpu, cpu = (values(name, "FROM") for name in NAMES)
    assert gpu == cpu == ["python:3.11-slim-bookworm"]
    for name in NAMES:
        (install,) = [
            step for step in values(name, "RUN") if "constraints" in step and "EXTRAS" in step
        ]
        assert "grep -v '^torch==' constraints.txt" in install
        assert "-c /tmp/constraints.txt" in install


def test_kaolin_comes_from_nvidia_for_a_torch_that_it_supports() -> None:
    arguments = dict(rest.partition("=")[::2] for rest in values("Dockerfile", "ARG"))
    assert arguments["KAOLIN"] == "", "only on request"
    # Wheels of kaolin 0.18.0: geometry.md 3.
    wheels = {"2.6.0": ("cu124", "cu126"), "2.7.0": ("cu126", "cu128"), "2.8.0": ("cu126", "cu128")}
    assert arguments["CUDA"] in wheels[arguments["TORCH"]]
    (step,) = [step for step in values("Dockerfile", "RUN") if "kaolin==" in step]
    assert "--no-index" in step, "PyPI's kaolin is a placeholder"
    assert "https://nvidia-kaolin.s3.us-east-2.amazonaws.com/torch-${TORCH}_${CUDA}.html" in step
    assert "from kaolin.ops.conversions import FlexiCubes" in step


def run_drain(tmp_path: Path, *, ray: str, looks: int = 0) -> tuple[int, str, int]:
    """Exit status, what ``ray`` was asked, and how often replicas were looked for."""
    log, count = tmp_path / "ray.log", tmp_path / "looks"
    count.write_text("")
    programs = {
        "ray": f'echo "$@" >> {log}\n{ray}',
        "pgrep": f"echo look >> {count}\n[ $(wc -l < {count}) -le {looks} ]",
        "sleep": ":",
    }
    for program, body in programs.items():
        file = tmp_path / program
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(DOCKER / "drain_node.sh"), "720"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        timeout=30,
        check=False,
        capture_output=True,
    )
    return done.returncode, log.read_text(), len(count.read_text().splitlines())


def test_a_pod_ends_when_its_last_replica_has_left(tmp_path: Path) -> None:
    status, asked, looks = run_drain(tmp_path, ray=":", looks=3)
    assert (status, looks) == (0, 4)
    assert asked.startswith("drain-node --reason DRAIN_NODE_REASON_PREEMPTION")
    assert asked.rstrip().endswith("--deadline-remaining-seconds 720")


def test_a_pod_does_not_wait_where_the_head_is_gone(tmp_path: Path) -> None:
    status, _, looks = run_drain(tmp_path, ray="exit 1", looks=3)
    assert (status, looks) == (0, 0)


def test_ray_knows_what_the_script_asks_for() -> None:
    from ray.scripts.scripts import drain_node

    options = {name: option for option in drain_node.params for name in option.opts}
    script = (DOCKER / "drain_node.sh").read_text(encoding="utf-8")
    assert set(re.findall(r"--[a-z-]+", script)) <= set(options)
    (reason,) = re.findall(r"DRAIN_NODE_REASON_[A-Z]+", script)
    assert reason in options["--reason"].type.choices
