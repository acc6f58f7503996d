from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_tree import TEXT_CONFIG, write_text_encoder

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.checkpoints.prompts import (
    CACHE_FILE,
    OFFICIAL_FILES,
    match_official_statistics,
    prompt_token_ids,
)
from deployments.errors import CheckpointError


def tree(tmp_path: Path) -> Path:
    (tmp_path / "OneStage").mkdir(exist_ok=True)
    return tmp_path


def test_token_ids_spell_the_prompts() -> None:
    ids = prompt_token_ids()

    assert ids.shape == (10, 77)
    # <start> a rendering image of 3 d human , back view , color map . <end> padding
    assert ids[7].tolist() == (
        [49406, 320, 21339, 2867, 539, 274, 323, 2751, 267, 893, 1093, 267, 3140, 3923, 269, 49407]
        + [0] * 61
    )
    # Only the kind differs between the two halves, only the view within one.
    differing = (ids[:5] != ids[5:]).nonzero()[:, 1].unique()
    assert differing.tolist() == [12]
    assert (ids[0] != ids[1]).nonzero().flatten().tolist() == [9]


def test_computed_once_by_the_tree_s_text_encoder(tmp_path: Path) -> None:
    write_text_encoder(tree(tmp_path))

    first = open_checkpoint(str(tmp_path)).prompt_embeddings()

    assert first.shape == (10, 77, TEXT_CONFIG["hidden_size"])
    assert (tmp_path / CACHE_FILE).is_file()
    # Causal attention: up to the view word all rows agree, after it they do not.
    assert torch.equal(first[0, :9], first[7, :9])
    assert not torch.allclose(first[0, 9:], first[7, 9:])

    encoder = tmp_path / "OneStage" / "text_encoder"
    (encoder / "model.safetensors").unlink()
    assert torch.equal(open_checkpoint(str(tmp_path)).prompt_embeddings(), first)


@pytest.mark.parametrize("folder", ["", "OneStage"])
def test_official_pt_files_are_taken(tmp_path: Path, folder: str) -> None:
    root = tree(tmp_path)
    rows = torch.arange(7.0).view(7, 1, 1).expand(7, 77, 4).half()
    torch.save(rows.clone(), root / folder / OFFICIAL_FILES[0])
    torch.save(rows + 10, root / folder / OFFICIAL_FILES[1])

    embeddings = open_checkpoint(str(root)).prompt_embeddings()

    assert embeddings[:, 0, 0].tolist() == [0, 2, 3, 4, 6, 10, 12, 13, 14, 16]


def test_a_pt_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    for name in OFFICIAL_FILES:
        torch.save(torch.zeros(5, 77, 4), tree(tmp_path) / name)

    with pytest.raises(CheckpointError, match=r"is \[5, 77, 4\]; expected a tensor \[7, 77, D\]"):
        open_checkpoint(str(tmp_path)).prompt_embeddings()


def test_none_at_all_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no prompt embeddings: put .*normal_embeds\.pt"):
        open_checkpoint(str(tree(tmp_path))).prompt_embeddings()


def test_official_statistics_tell_the_official_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(10, 77, 1024, generator=generator)
    deviations = noise.flatten(1).std(dim=1).view(10, 1, 1)
    from deployments.checkpoints.prompts import _OFFICIAL_DEVIATIONS

    official = noise / deviations * torch.tensor(_OFFICIAL_DEVIATIONS).view(10, 1, 1)

    assert match_official_statistics(official.half())
    assert not match_official_statistics(noise)
    assert not match_official_statistics(official.flip(0))
