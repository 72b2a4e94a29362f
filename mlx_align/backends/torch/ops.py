"""The losses' array operations in torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)


class TorchOps:
    """`methods.ops.Ops` for torch.Tensor."""

    exp = staticmethod(torch.exp)
    log = staticmethod(torch.log)
    log1p = staticmethod(torch.log1p)
    expm1 = staticmethod(torch.expm1)
    where = staticmethod(torch.where)
    log_sigmoid = staticmethod(F.logsigmoid)
    relu = staticmethod(F.relu)
    clip = staticmethod(torch.clamp)

    @staticmethod
    def minimum(x: torch.Tensor, bound: float) -> torch.Tensor:
        """min(x, bound); the gradient is zero where the bound holds."""
        return torch.clamp(x, max=bound)

    @staticmethod
    def sum(x: torch.Tensor, axis: int | None = None) -> torch.Tensor:
        """Sum over one axis, or over all."""
        return torch.sum(x) if axis is None else torch.sum(x, dim=axis)

    @staticmethod
    def stop_gradient(x: torch.Tensor) -> torch.Tensor:
        """X as a constant."""
        return x.detach()
