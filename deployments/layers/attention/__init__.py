"""Scaled dot-product attention behind one call signature, whatever library computes it.

``attention`` takes dense batches, ``attention_varlen`` (attention/varlen.py) packed sequences of
different lengths. ``choose_backend`` picks the library once and logs why; results differ between
backends by rounding only.
"""

from deployments.layers.attention.backend import Backend, choose_backend, current_backend
from deployments.layers.attention.dense import attention

__all__ = ["Backend", "attention", "choose_backend", "current_backend"]
