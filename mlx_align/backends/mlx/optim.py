"""The optimisers, from mlx.optimizers."""

from __future__ import annotations

import mlx.optimizers as optim

from mlx_align.config import OptimConfig


def build(config: OptimConfig) -> optim.Optimizer:
    """The configured optimiser; the trainer sets its learning rate before each update.

    Adam and AdamW get the bias correction of the papers, which MLX leaves off by default and without which
    the first updates are far too large. Adafactor gets the schedule's rate instead of its own relative one.
    """
    match config.name:
        case "adamw":
            return optim.AdamW(config.lr, weight_decay=config.weight_decay, bias_correction=True)
        case "adam":
            return optim.Adam(config.lr, bias_correction=True)
        case "adafactor":
            return optim.Adafactor(config.lr, scale_parameter=False, relative_step=False)
        case "lion":
            return optim.Lion(config.lr, weight_decay=config.weight_decay)
        case "muon":
            return optim.Muon(config.lr, weight_decay=config.weight_decay)
