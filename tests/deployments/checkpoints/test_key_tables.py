from __future__ import annotations

import pytest

from deployments.checkpoints.component import Component
from deployments.checkpoints.key_tables import Source, match_names
from deployments.checkpoints.loading import build_without_memory
from deployments.layers.dinov2 import build_dinov2

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}


def official_names(blocks: int) -> list[str]:
    """Names of the official .pth file, from its manifest's first block."""
    stem = ["cls_token", "pos_embed", "register_tokens", "mask_token"]
    stem += [f"{name}.{leaf}" for name in ("patch_embed.proj", "norm") for leaf in _LEAVES]
    parts = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    block = [f"{part}.{leaf}" for part in parts for leaf in _LEAVES] + ["ls1.gamma", "ls2.gamma"]
    return stem + [f"blocks.{i}.{name}" for i in range(blocks) for name in block]


_LEAVES = ("weight", "bias")


def module_names() -> list[str]:
    return list(build_without_memory(lambda: build_dinov2(SIZES)).state_dict())


def test_official_dinov2_names_cover_the_module_exactly() -> None:
    matching = match_names(Component.DINOV2, module_names(), official_names(2))

    assert matching.missing == ()
    assert matching.unexpected == ()
    thirds = [s for s in matching.sources.values() if s.name == "blocks.1.attn.qkv.weight"]
    assert sorted(s.third for s in thirds if s.third is not None) == [0, 1, 2]


@pytest.mark.parametrize(
    ("stored", "official"),
    [
        ("encoder.layer.0.attention.attention.query.bias", "blocks.0.attn.qkv.bias"),
        ("encoder.layer.0.attention.q_proj.bias", "blocks.0.attn.qkv.bias"),
        ("encoder.layer.0.attention.output.dense.weight", "blocks.0.attn.proj.weight"),
        ("encoder.layer.0.attention.o_proj.weight", "blocks.0.attn.proj.weight"),
        ("encoder.layer.0.layer_scale2.lambda1", "blocks.0.ls2.gamma"),
        ("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias"),
        ("dinov2_with_registers.layernorm.weight", "norm.weight"),
    ],
)
def test_transformers_namings_of_dinov2_meet_in_the_official_one(
    stored: str, official: str
) -> None:
    matching = match_names(Component.DINOV2, [stored], [official])
    assert matching.sources[stored].name == official
    assert matching.unexpected == ()


def test_a_4x_file_feeds_a_5x_module() -> None:
    file = ["encoder.layer.3.attention.attention.key.weight"]
    module = ["encoder.layer.3.attention.k_proj.weight"]

    assert match_names(Component.DINOV2, module, file).sources == {module[0]: Source(file[0])}


def test_missing_rows_are_reported_under_the_official_name() -> None:
    matching = match_names(Component.DINOV2, ["encoder.layer.0.attention.v_proj.bias"], ["junk"])

    assert matching.missing == ("blocks.0.attn.qkv.bias [v rows]",)
    assert matching.unexpected == ("junk",)


@pytest.mark.parametrize("prefix", ["", "text_model.", "text_model.text_model."])
def test_clip_prefixes_do_not_matter_and_index_tables_are_ignored(prefix: str) -> None:
    matching = match_names(
        Component.TEXT_ENCODER,
        [f"{prefix}final_layer_norm.weight"],
        ["text_model.final_layer_norm.weight", "text_model.embeddings.position_ids"],
    )
    assert matching.missing == matching.unexpected == ()


def test_other_components_need_their_exact_names() -> None:
    matching = match_names(Component.VAE, ["encoder.conv_in.weight"], ["conv_in.weight"])

    assert matching.missing == ("encoder.conv_in.weight",)
    assert matching.unexpected == ("conv_in.weight",)
