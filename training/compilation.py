"""Compile the blocks of the joint flow, so that what lies between its products is a pass or two.

Blocks that are alike share their code: compiling them one by one takes a third of the time that the
whole network takes, and only the borders between them are lost.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn

from deployments.layers.modulated_block import ModulatedBlock
from deployments.stage1.models.attention import CrossAttention
from deployments.stage1.models.multiview_block import FeedForward
from deployments.stage1.models.sync import PictureSync, StructureSync
from deployments.stage1.models.unet_blocks import MultiviewTransformer, ResnetBlock

_SHAPES = 64  # of one kind of block: the residual blocks have ten, dynamo gives up after eight


def lay_out(network: nn.Module) -> None:
    """Channels-last weights: cuDNN's kernels are made for them, and results follow weights."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)


def compile_blocks(
    network: nn.Module,
    trial: Callable[[], object],
    backend: str | Callable[..., object] = "inductor",
) -> bool:
    """Compile every block in place, then call ``trial``, which runs it forwards and backwards.

    Where anything raises, the blocks are as they were and the answer is False.
    """
    torch._dynamo.config.recompile_limit = _SHAPES
    started = time.monotonic()
    parts = list(_parts(network))
    for module, method in parts:
        plain = getattr(module, method)
        setattr(
            module, method, torch.compile(plain, dynamic=False, fullgraph=True, backend=backend)
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a compiler's remarks on code that is not ours
            trial()
    except Exception as error:  # whatever a compiler may raise
        print(f"not compiled: {type(error).__name__}: {str(error)[:1500]}", flush=True)
        for module, method in parts:
            delattr(module, method)
        return False
    print(f"compiled in {time.monotonic() - started:.0f} s", flush=True)
    return True


def _parts(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules and the methods that are compiled."""
    for module in network.modules():
        if isinstance(module, ResnetBlock | MultiviewTransformer | ModulatedBlock):
            yield module, "forward"
        elif isinstance(module, StructureSync | PictureSync):
            # These look up tables that live on the device: only their parts can be compiled.
            for part in module.modules():
                if isinstance(part, FeedForward):
                    yield part, "forward"
                elif isinstance(part, CrossAttention):
                    yield part, "read"
