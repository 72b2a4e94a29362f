"""The adapter's first values: the same numbers on every backend, whatever its random generator.

A is uniform in (-1/sqrt(fan_in), 1/sqrt(fan_in)), which is what mlx-lm does and what PEFT's Kaiming
initialisation with a = sqrt(5) comes to; B is zero, so the first policy is exactly the base model
(Hu et al. 2021, arXiv:2106.09685, section 4.1).
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


def initial_a(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """First values of one `lora_a`: (fan_in, r), or (experts, r, fan_in) for a stacked expert layer.

    Each tensor has its own generator, seeded by its name: adding a layer does not change the others.
    """
    fan_in = shape[0] if len(shape) == 2 else shape[-1]
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    bound = 1 / np.sqrt(fan_in)
    return generator.uniform(-bound, bound, size=shape).astype(np.float32)
