"""The losses' array operations in MLX."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


class MlxOps:
    """`methods.ops.Ops` for mx.array."""

    exp = staticmethod(mx.exp)
    log = staticmethod(mx.log)
    log1p = staticmethod(mx.log1p)
    expm1 = staticmethod(mx.expm1)
    where = staticmethod(mx.where)
    sum = staticmethod(mx.sum)
    stop_gradient = staticmethod(mx.stop_gradient)
    log_sigmoid = staticmethod(nn.log_sigmoid)
    relu = staticmethod(nn.relu)
    minimum = staticmethod(mx.minimum)
    clip = staticmethod(mx.clip)
