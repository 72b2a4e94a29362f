"""How MLX uses memory while it trains, for the planner.

What is kept follows from MLX's rules of differentiation; `engine.planning.footprint` counts it. How many
arrays MLX works with besides does not: it runs ahead of what has been computed, and what the operations ahead
need exists already. On a CPU that is at most a stage (`stages`), and the numbers were measured with
tests/bench/memory.py. A GPU runs further ahead, by command buffers; its numbers were measured on a CPU before
it computed in stages, and are an estimate.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from mlx_align.backends.base import Chunks, MemoryHabits, Work
from mlx_align.backends.mlx.generation import SIDE_BY_SIDE
from mlx_align.backends.mlx.lanes import cores
from mlx_align.backends.mlx.selected import chunk_least, chunk_positions

HEAD, HEAD_PLAIN = Chunks(own=6.0, before=4.0), Chunks(own=3.0, before=7.0)
HEAD_ON_CPU, HEAD_PLAIN_ON_CPU = Chunks(own=5.0, before=2.0), Chunks(own=4.0, before=1.5)
GATED = {
    # gate, sigmoid(gate), their product, up, and the product of both
    "silu": 5,
    # the same with gelu's cubic: gate, gate / 2, tanh, 1 + tanh, their product, up, and the product of both
    "gelu": 7,
}
GATED_ON_CPU = {**GATED, "silu": 4}
"""Its SwiGLU computes silu(gate) again."""
WORK = Work(scores=2.5, wide=4.5, narrow=7.0)
WORK_ON_CPU = replace(WORK, scores=1.5)
"""Its attention has a derivative of its own."""
WORK_AGAIN, WORK_AGAIN_ON_CPU = Work(scores=3.5, wide=10.0, narrow=5.0), Work(2.0, 2.0, 2.0)
SCORES_AGAIN = 3.5
WORK_PLAIN, WORK_PLAIN_ON_CPU = Work(scores=1.2, wide=3.0, narrow=5.0), Work(scores=1.8, wide=3.0, narrow=5.0)
GIB = 1 << 30


def habits(device: str, float_bytes: int | None, limit: int, *, compiled: bool = False) -> MemoryHabits:
    """The habits of a device, "mlx:cpu" or another.

    Args:
        device: `Backend.device`.
        float_bytes: of one weight and one activation; None: as the model's files have them.
        limit: the device's memory, as `MemoryUse.limit`.
        compiled: whether MLX compiles; then a CPU has neither lanes nor stages nor functions of its own
            (which are for float32 besides).
    """
    on_cpu = device == "mlx:cpu"
    staged = on_cpu and not compiled
    own = staged and float_bytes == 4  # the functions of `cpu`
    # Without a gradient a GPU's attention is one kernel, in which scores never exist as an array.
    read = WORK_PLAIN if on_cpu else replace(WORK_PLAIN, scores=0.0)
    if device == "mlx:metal":  # Metal's recommended working set leaves the system its share already
        reserve = 0
    elif on_cpu:  # physical memory, of which the system, Python and other programs need some
        reserve = max(2 * GIB, limit // 10)
    else:  # the context of a CUDA process
        reserve = GIB
    return MemoryHabits(
        float_bytes=float_bytes,
        widens=on_cpu,
        chunk_positions=partial(
            _positions, lanes=cores() if staged else 1, gpu_memory=0 if on_cpu else limit
        ),
        head=HEAD_ON_CPU if staged else HEAD,
        head_plain=HEAD_PLAIN_ON_CPU if staged else HEAD_PLAIN,
        gated=GATED_ON_CPU if own else GATED,
        work=WORK_ON_CPU if own else WORK,
        work_again=WORK_AGAIN_ON_CPU if staged else WORK_AGAIN,
        scores_again=SCORES_AGAIN,
        work_plain=WORK_PLAIN_ON_CPU if own else read,
        work_read=read,
        side_by_side=SIDE_BY_SIDE,
        growing=1 if on_cpu else 2,
        reserve=reserve,
    )


def _positions(vocabulary: int, rows: int, frugal: bool, *, lanes: int, gpu_memory: int) -> int:
    """Positions whose logits exist at a time.

    Lanes come to the head one after the other; but where chunks are long, about half of them are there.
    """
    chunk = chunk_positions(vocabulary, lanes, gpu_memory, frugal=frugal)
    is_long = chunk == chunk_least(lanes, frugal=frugal)
    return chunk * (1 + min(lanes, rows)) // 2 if is_long else chunk
