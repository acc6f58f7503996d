from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.checkpoints.method import MethodConfig
from deployments.errors import CheckpointError


def test_an_official_tree_gives_the_defaults(tmp_path: Path) -> None:
    assert MethodConfig.from_tree(tmp_path) == MethodConfig()


def test_the_official_pipeline_index_gives_the_sampler(tmp_path: Path) -> None:
    index = tmp_path / "SecondStage" / "pipeline.json"
    index.parent.mkdir()
    arguments = {
        "slat_sampler": {"params": {"steps": 25, "cfg_strength": 4.0, "cfg_interval": [0.2, 0.9]}},
        "slat_normalization": {"mean": [0.0] * 8, "std": [2.0] * 8},
    }
    index.write_text(json.dumps({"args": arguments}))

    method = MethodConfig.from_tree(tmp_path)

    assert method.stage2_guidance == 4.0
    assert method.stage2_guidance_interval == (0.2, 0.9)
    assert method.latent_std == (2.0,) * 8
    assert method.stage2_rescale_t == 3.0


def test_own_file_wins(tmp_path: Path) -> None:
    (tmp_path / "SecondStage").mkdir()
    (tmp_path / "SecondStage" / "pipeline.json").write_text(
        json.dumps({"args": {"slat_sampler": {"params": {"cfg_strength": 4.0}}}})
    )
    own = {"picture_size": 192, "feature_layers": [0, 1], "stage2_guidance": 2.0}
    (tmp_path / "synchuman.json").write_text(json.dumps(own))

    method = MethodConfig.from_tree(tmp_path)

    assert (method.picture_size, method.feature_layers) == (192, (0, 1))
    assert method.stage2_guidance == 2.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"picture": 3}', "fields that do not exist: picture; known are condition_size"),
        ('{"picture_size": 100}', "must be a multiple of 3"),
        ('{"voxel_grid": 0}', "voxel_grid is 0; it must be positive"),
        ('{"latent_mean": [0.0]}', "latent_mean has 1 values and latent_std 8"),
        ('{"noise_scales": [1, 0.5]}', "needs three values"),
        ('{"noise_scales": [1, 1, -0.1]}', "all of them lie in 0..1"),
        ('{"stage2_noise_scale": 1.5}', "stage2_noise_scale 1.5"),
        ("[1]", "holds no JSON object"),
        ("{", "can not be read as JSON"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "synchuman.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        MethodConfig.from_tree(tmp_path)


def test_needs_no_torch() -> None:
    code = (
        "import sys, deployments.checkpoints.method, deployments.preprocess.pipeline; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
