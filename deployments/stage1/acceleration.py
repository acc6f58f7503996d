"""One step of the joint model, called again and again: as it is, compiled, or as a CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deployments.layers.modulated_block import ModulatedBlock
from deployments.stage1.models.joint_model import Conditioning, JointModel, Prepared
from deployments.stage1.models.sync import PictureSync, StructureSync
from deployments.stage1.models.unet_blocks import MultiviewTransformer, ResnetBlock
from deployments.stage1.sampler import TIME_SCALE, Latents, Velocities

_COMPILED = (ResnetBlock, MultiviewTransformer, ModulatedBlock, StructureSync, PictureSync)
_LAYER_SHAPES = 64  # more than there are kinds of one layer; the default gives up after eight
_WARM_UPS = 2  # steps before recording: libraries choose their kernels and take their workspace


class Stepper:
    """Runs the steps of one model.

    On a GPU the first step is recorded as a CUDA graph, which is replayed from then on: a step
    starts thousands of kernels, and starting them takes the CPU longer than the GPU needs for many
    of them. In the graph the flow's blocks run beside those of the UNet (``two_streams``). There is
    one graph with and one without guidance. ``compile`` additionally compiles the
    model's blocks, which takes minutes at the first step.
    """

    def __init__(
        self,
        model: JointModel,
        *,
        compile: bool = False,
        graph: bool | None = None,
        two_streams: bool = True,
    ) -> None:
        self.model = model
        self.device = model.conv_in.weight.device
        self.dtype = model.conv_in.weight.dtype
        self._use_graph = self.device.type == "cuda" if graph is None else graph
        self._graphs: dict[int, _StepGraph] = {}
        if self.device.type == "cuda":
            # Every step has the same shapes: trying the convolutions' algorithms once pays.
            torch.backends.cudnn.benchmark = True
        if self._use_graph and two_streams:
            model.use_second_stream(torch.cuda.Stream(self.device))
        if compile:
            compile_blocks(model)

    def start(
        self,
        conditioning: Conditioning,
        times: Sequence[float],
        *,
        flow_times: Sequence[float],
        guided: bool,
    ) -> Velocities:
        """Prepare a run and return the function that evaluates its steps.

        What it returns is valid until it is called again.
        """
        prepared = self.model.prepare(conditioning, times, flow_times=flow_times, guided=guided)
        if not self._use_graph:
            return lambda latents, index: self.model.step(*latents, prepared, index)
        graph = self._graphs.setdefault(prepared.branches, _StepGraph(self.model))
        graph.load(prepared)
        return graph.step

    @torch.inference_mode()
    def warm_up(self, conditioning: Conditioning) -> None:
        """Run a guided step once: libraries choose their algorithms, the graph is recorded."""
        times = [float(TIME_SCALE)]
        velocities = self.start(conditioning, times, flow_times=times, guided=True)
        config, size = self.model.config, self.model.config.sample_size
        velocities(
            Latents(
                torch.zeros(
                    2 * config.num_views, config.out_channels, size, size, device=self.device
                ),
                torch.zeros(
                    1, config.trellis_in_channels, *[config.resolution] * 3, device=self.device
                ),
            ),
            0,
        )


class _StepGraph:
    """A recorded step and the memory that it reads and writes."""

    def __init__(self, model: JointModel) -> None:
        self._model = model
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: Prepared  # of the first run: the memory that the recorded kernels read
        self._rows: tuple[Tensor, Tensor]  # of the current run, by step
        self._latents: Latents
        self._step: tuple[Tensor, Tensor]
        self._outputs: tuple[Tensor, Tensor]

    def load(self, prepared: Prepared) -> None:
        """Make ``prepared`` the run whose steps are evaluated."""
        self._rows = prepared.by_step()
        if self._graph is None:
            self._inputs = prepared
        else:
            for held, new in zip(self._inputs.shared(), prepared.shared(), strict=True):
                held.copy_(new)

    def step(self, latents: Latents, index: int) -> tuple[Tensor, Tensor]:
        """Velocities of step ``index``."""
        if self._graph is None:
            self._record(latents)
        for held, new in zip(self._latents, latents, strict=True):
            held.copy_(new)
        for held, rows in zip(self._step, self._rows, strict=True):
            held.copy_(rows[index])
        assert self._graph is not None
        self._graph.replay()
        return self._outputs

    def _record(self, latents: Latents) -> None:
        self._latents = Latents(*(x.clone() for x in latents))
        time_shifts, modulation = (rows[0].clone() for rows in self._rows)
        self._step = (time_shifts, modulation)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._evaluate()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.empty_cache()  # a recording takes memory of its own
        graph = torch.cuda.CUDAGraph()
        # Other threads of a replica may touch the device while this one records.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._outputs = self._evaluate()
        self._graph = graph

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        pictures = self._model.pictures(self._latents.pictures, self._inputs)
        return self._model(pictures, self._latents.structure, self._inputs, *self._step)


def compile_blocks(model: JointModel) -> None:
    """Compile layer by layer: the many layers of one kind and size share their code."""
    torch._dynamo.config.recompile_limit = _LAYER_SHAPES
    for module in model.modules():
        if isinstance(module, _COMPILED):
            module.compile(dynamic=False)
