"""One training step up to the clipped gradients: called as it is, or recorded as a CUDA graph.

The small networks here start thousands of short kernels a step. Starting them took the CPU 240 ms
where the GPU needed a fraction of that, with 16 subjects in a batch as with 64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Losses = dict[str, Tensor]  # scalars; "loss" is the one to follow downhill
Inputs = TypeVar("Inputs")

LONGEST_GRADIENT = 1.0
_WARM_UPS = 3  # steps before recording: libraries choose their algorithms and take their workspace


class Step(Generic[Inputs]):
    """Losses and clipped gradients of a batch, in bfloat16 where there is a GPU."""

    def __init__(
        self, losses: Callable[[Inputs], Losses], parameters: Sequence[nn.Parameter]
    ) -> None:
        self.losses = losses
        self.parameters = parameters
        self.device = parameters[0].device

    def __call__(self, inputs: Inputs) -> tuple[Losses, Tensor]:
        """Leave gradients in the parameters; returns the losses and the gradients' norm."""
        for parameter in self.parameters:
            parameter.grad = None
        return self._evaluate(inputs)

    def _evaluate(self, inputs: Inputs) -> tuple[Losses, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            values = self.losses(inputs)
        values["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, LONGEST_GRADIENT, foreach=True)
        return {name: value.detach() for name, value in values.items()}, norm


class RecordedStep(Step[dict[str, Tensor]]):
    """The same over tensors of constant shapes, replayed from its fourth call on.

    Where recording fails it says why and goes on as it is: minutes on a GPU do not come back.
    """

    def __init__(
        self,
        losses: Callable[[dict[str, Tensor]], Losses],
        parameters: Sequence[nn.Parameter],
    ) -> None:
        super().__init__(losses, parameters)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: dict[str, Tensor] = {}
        self._outputs: tuple[Losses, Tensor]
        self._calls = 0
        self._recordable = self.device.type == "cuda"

    def __call__(self, inputs: dict[str, Tensor]) -> tuple[Losses, Tensor]:
        self._calls += 1
        if self._graph is None and self._recordable and self._calls > _WARM_UPS:
            self._record(inputs)
        if self._graph is None:
            return self._apart(inputs) if self._recordable else super().__call__(inputs)
        for name, held in self._inputs.items():
            held.copy_(inputs[name])
        self._graph.replay()
        return self._outputs

    def _apart(self, inputs: dict[str, Tensor]) -> tuple[Losses, Tensor]:
        """A warm-up, on a stream of its own as recording needs it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = super().__call__(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def _record(self, inputs: dict[str, Tensor]) -> None:
        self._inputs = {name: value.clone() for name, value in inputs.items()}
        for parameter in self.parameters:
            parameter.grad = None  # the recorded backward pass writes, it does not add
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._outputs = self._evaluate(self._inputs)
        except RuntimeError as error:
            print(f"a step can not be recorded: {str(error)[:1000]}", flush=True)
            self._recordable = False
            return
        self._graph = graph
