"""Work on a second CUDA stream, beside what the caller goes on with.

The flow's blocks and the UNet's read each other at four places only. Between those, kernels of one
fill the multiprocessors that a small kernel of the other leaves idle. Recorded in a CUDA graph, the
two streams become branches of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Beside:
    """Starts pieces of work on ``stream``; without a stream they run in place.

    The allocator reuses a tensor's memory in the order of the stream that it came from, so tensors
    that pass from one stream to the other are kept alive here until the streams have met again.
    """

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self._stream = stream
        self._kept: list[Tensor] = []

    def start(self, work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``work(x)``, which the caller may read after ``join``."""
        if self._stream is None:
            return work(x)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            out = work(x)
        self._kept += [x, out]
        return out

    def join(self) -> None:
        """Let the caller's stream wait for everything that was started."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
