"""Each component learns on one toy batch, and the tree that results opens like any other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from torch import nn

from deployments.checkpoints.checkpoint import open_checkpoint
from deployments.checkpoints.component import Component
from deployments.checkpoints.networks import build_network
from training.all import train_all
from training.joint_flow import JointTraining
from training.latent_flow import LatentFlowTraining, VoxelBatch
from training.loop import Average, rate_factor
from training.picture_vae import fresh_views, nearly, reconstruction_losses, train_picture_vae
from training.run import Run
from training.step import Losses
from training.structure_vae import StructureEncoder, fold_scale
from training.subject_ring import SubjectRing
from training.surface import SurfaceTraining
from training.surface_rows import collate
from training.unpack import unpack


def falls(losses: Callable[[], Losses], modules: Iterable[nn.Module], steps: int = 4) -> bool:
    """Whether a few steps of Adam with the same random numbers lower the loss."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    values = []
    for _ in range(steps):
        torch.manual_seed(0)
        loss = losses()["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    return values[-1] < values[0]


@pytest.fixture
def prepared_run(toy_run: Run) -> Run:
    """A run whose tree holds untrained autoencoders."""
    for component in (Component.VAE, Component.STRUCTURE_DECODER):
        module = toy_run.configs.build(component, toy_run.device)
        config = toy_run.configs.file(component) | {"scaling_factor": 0.5}
        toy_run.workspace.save(component, module, config)
    return toy_run


def test_picture_vae_learns(toy_run: Run) -> None:
    vae = toy_run.configs.build(Component.VAE, toy_run.device)
    views = toy_run.subjects.views(1)
    truth, mask = views.color_on_white()[0, :2] * 2 - 1, views.mask[0, :2]

    def losses() -> Losses:
        result = vae.decode(vae.encode(truth))
        parts = reconstruction_losses(result, truth, mask)
        return parts | {"loss": parts["absolute"] + parts["edges"]}

    assert falls(losses, [vae])


def test_a_frozen_encoder_and_its_scale_stay_while_the_decoder_learns(prepared_run: Run) -> None:
    run, stage = prepared_run, prepared_run.recipe.stages["picture_vae"]
    run.recipe.stages["picture_vae"] = replace(stage, frozen_encoder=True, max_steps=2)
    before = run.configs.build(Component.VAE, run.device)
    run.workspace.load(Component.VAE, before)
    train_picture_vae(run, 5)
    after = run.configs.build(Component.VAE, run.device)
    run.workspace.load(Component.VAE, after)
    values = after.state_dict()
    changed = {k for k, v in before.state_dict().items() if not torch.equal(v, values[k])}
    assert changed
    assert {name.split(".")[0] for name in changed} <= {"decoder", "post_quant_conv"}
    config = run.workspace.config(Component.VAE)
    assert config is not None
    assert config["scaling_factor"] == 0.5


def test_latents_for_a_decoder_behind_a_flow_are_a_little_off() -> None:
    latents = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    error = (nearly(latents) - latents).square().mean((1, 2, 3)).sqrt()
    assert error.min() < 0.03
    assert 0.1 < error.max() < 0.17


def test_structure_vae_learns_and_folding_keeps_its_result(toy_run: Run) -> None:
    decoder = toy_run.configs.build(Component.STRUCTURE_DECODER, toy_run.device)
    encoder = StructureEncoder((16, 8), 8)
    volumes = (torch.rand(2, 16, 16, 16) < 0.1).float()

    def losses() -> Losses:
        mean, _ = encoder(volumes[:, None] * 2 - 1)
        logits = decoder(mean)[:, 0]
        return {"loss": nn.functional.binary_cross_entropy_with_logits(logits, volumes)}

    assert falls(losses, [encoder, decoder])
    with torch.no_grad():
        before = decoder(encoder(volumes[:, None] * 2 - 1)[0])
        fold_scale(encoder, decoder, volumes)
        mean, _ = encoder(volumes[:, None] * 2 - 1)
    torch.testing.assert_close(mean.std(dim=(0, 2, 3, 4)), torch.ones(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(decoder(mean), before, atol=1e-3, rtol=1e-3)


def test_joint_flow_learns(prepared_run: Run) -> None:
    training = JointTraining(prepared_run)
    rows = training.encode(prepared_run.subjects.draw(2))
    assert falls(lambda: training.losses(rows), [training.flow, training.encoders])


def test_batched_times_equal_single_ones(prepared_run: Run) -> None:
    """A batch at two times gives what each subject gives alone."""
    training = JointTraining(prepared_run)
    for parameter in training.flow.parameters():
        nn.init.normal_(parameter, std=0.05)
    rows = training.encode(prepared_run.subjects.draw(2))
    latents, structure = rows["latents"].float(), rows["structure"].float()
    times = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        both = training.flow.velocities(latents, structure, times, training.conditions(rows))
        for person in range(2):
            only = {name: value[[person]] for name, value in rows.items()}
            alone = training.flow.velocities(
                latents[[person]], structure[[person]], times[[person]], training.conditions(only)
            )
            for found, expected in zip(alone, both, strict=True):
                torch.testing.assert_close(found[0], expected[person], atol=1e-4, rtol=1e-3)


def test_surface_networks_learn(toy_run: Run) -> None:
    training = SurfaceTraining(toy_run)
    batch = collate(training.rows.encode(toy_run.subjects.draw(2)))
    assert falls(
        lambda: training.losses(batch), [training.encoder, training.mesh, training.gaussian], 3
    )


def test_latent_flow_learns(toy_run: Run) -> None:
    toy_run.workspace.save_method(toy_run.configs)
    training = LatentFlowTraining(toy_run)
    batch = VoxelBatch.of(training.surface.rows.voxels(toy_run.subjects.draw(2)))
    assert falls(lambda: training.losses(batch), [training.flow], 3)


def test_ring_is_filled_first_then_turns_now_and_then() -> None:
    numbers = iter(range(100))
    ring = SubjectRing(
        4,
        lambda: {"number": torch.tensor([next(numbers), next(numbers)])},
        torch.Generator().manual_seed(0),
        every=3,
        filled=4,
    )
    assert set(ring.draw(50)["number"].tolist()) == {0, 1, 2, 3}
    ring.draw(1)
    assert set(ring.draw(50)["number"].tolist()) == {0, 1, 2, 3}
    assert set(ring.draw(50)["number"].tolist()) == {2, 3, 4, 5}


def test_picture_vae_sees_other_hues_on_the_same_white(toy_run: Run) -> None:
    state = toy_run.subjects.generator.get_state()
    plain = toy_run.subjects.views(6).color_on_white() * 255
    toy_run.subjects.generator.set_state(state)
    color = fresh_views(toy_run, 6)["pictures"].unflatten(0, (2, 6, 5))[1].float()
    torch.testing.assert_close(color.sort(2).values, plain.sort(2).values, atol=0.6, rtol=0)
    as_drawn = (color - plain).abs().amax((1, 2, 3, 4)) < 1
    assert as_drawn.any()
    assert not as_drawn.all()


def test_hue_counts_apart_from_lightness() -> None:
    truth = torch.zeros(1, 3, 16, 16)
    lighter, redder = truth + 0.1, truth + torch.tensor([0.1, 0, 0]).view(3, 1, 1)
    mask = torch.ones(1, 1, 16, 16)
    assert reconstruction_losses(lighter, truth, mask)["hue"] == 0
    assert reconstruction_losses(redder, truth, mask)["hue"] > 0.03


def test_averages_stand_in_only_inside() -> None:
    layer = nn.Linear(2, 2)
    average = Average(layer.parameters(), 0.5)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(1)
    average.update(step=1000)
    with average.applied():
        torch.testing.assert_close(layer.weight.detach(), before + 0.5)
    torch.testing.assert_close(layer.weight.detach(), before + 1)


def test_rate_warms_up_then_falls_to_its_floor() -> None:
    factors = [rate_factor(progress) for progress in (0.02, 0.04, 0.5, 1.0)]
    assert factors[0] == pytest.approx(0.5, abs=0.01)
    assert factors[1] > factors[2] > factors[3]
    assert factors[3] == pytest.approx(0.03)


def test_a_stage_that_fails_is_named_and_leaves_the_others(
    toy_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_all(toy_run, 30, ["joint_flow", "structure_vae"]) == ["joint_flow"]
    assert "train vae first" in capsys.readouterr().err
    assert (toy_run.workspace.tree / Component.STRUCTURE_DECODER.value / "config.json").is_file()


@pytest.mark.large
def test_a_whole_run_leaves_a_tree_that_opens(toy_run: Run) -> None:
    stages = ["picture_vae", "structure_vae", "joint_flow", "surface", "latent_flow"]
    assert train_all(toy_run, 30, stages) == []
    copy = toy_run.workspace.tree.parent / "copy"
    unpack(toy_run.workspace.out, copy)
    checkpoint = open_checkpoint(str(copy))
    assert checkpoint.prompt_embeddings().shape == (10, 77, 64)
    assert checkpoint.method.guidance == 1.0
    for component in Component:
        if component is not Component.TEXT_ENCODER:
            config = checkpoint.config(component)
            network = checkpoint.load(
                component, lambda c=component, v=config: build_network(c, v), device="cpu"
            )
            assert all(torch.isfinite(value).all() for value in network.state_dict().values())
