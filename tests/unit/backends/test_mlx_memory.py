"""How many freed buffers MLX may keep, when they are given back, and how long the head's chunks are."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from mlx_align import backends, embedded
from mlx_align.backends.base import MemoryUse
from mlx_align.backends.mlx import forward, policy, selected
from mlx_align.backends.mlx.backend import MEMORY_SHARE
from mlx_align.backends.mlx.checkpointing import Checkpointing
from mlx_align.backends.mlx.memory import cache_limit, gpu_memory, memory_of, to_be_cleared
from mlx_align.backends.mlx.selected import chunk_positions
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.data import collate
from tests import support

GIB = 1 << 30
CPU, GPU = mx.Device(mx.cpu), mx.Device(mx.gpu)


def made(checkpointing: Checkpointing = "none") -> Any:
    backend = backends.create(BackendConfig(device="cpu", checkpointing=checkpointing))
    return backend.load_policy(embedded.model_folder(), AdapterConfig(rank=2), OptimConfig(), 0)


def test_a_gpu_keeps_its_share() -> None:
    assert [cache_limit(n * GIB, GPU) for n in (8, 48, 96)] == [GIB, 6 * GIB, 12 * GIB]


def test_a_cpu_keeps_two_gibibytes_at_the_most() -> None:
    assert [cache_limit(n * GIB, CPU) for n in (8, 48, 96)] == [GIB, 2 * GIB, 2 * GIB]


def test_a_gpu_gives_back_when_its_memory_is_nearly_full() -> None:
    for active, cached, clear in ((5, 6, False), (32, 6, False), (33, 6, True), (40, 0, True)):
        use = MemoryUse(active * GIB, 0, 48 * GIB)
        assert to_be_cleared(use, cached * GIB, GPU) is clear


def test_a_cpu_gives_back_what_is_above_a_gibibyte() -> None:
    for active in (0, 40 * GIB):
        use = MemoryUse(active, 0, 48 * GIB)
        assert not to_be_cleared(use, GIB, CPU)
        assert to_be_cleared(use, GIB + 1, CPU)


def test_the_backend_sets_its_devices_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the wired one: raising it has been seen to end in kernel panics."""
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: pytest.fail("the wired limit is left alone"))
    backend = backends.create(BackendConfig(device="cpu"))
    limit = cache_limit(backend.memory().limit, CPU)
    assert mx.set_cache_limit(limit) == limit
    most = int(backend.memory().limit * MEMORY_SHARE)
    assert mx.set_memory_limit(most) == most
    assert backend.memory().limit == memory_of(CPU) > GIB


def test_buffers_are_looked_at_when_the_shapes_change(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    cleared: list[int] = []
    monkeypatch.setattr(policy, "to_be_cleared", lambda *given: bool(asked.append(given)) or len(asked) == 2)
    trained, objective = made(), support.objective("orpo")
    monkeypatch.setattr(mx, "clear_cache", lambda: cleared.append(len(asked)))
    for pad in (64, 64, 96, 96, 64):
        batch = collate(support.examples()[:1], pad_to=pad)
        trained.accumulate(batch, objective, objective.method.counts(batch, objective.hp), seed=0)
    assert len(asked) == 3
    assert cleared == [2]
    use, cached, device = asked[-1]
    assert 0 < use.active < use.limit
    assert cached >= 0
    assert device == mx.cpu


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The chunks that the head is asked for."""
    seen: list[int] = []
    original = forward.selected_logps

    def seeing(head: Any, features: Any, targets: Any, chunk: int, **others: Any) -> mx.array:
        seen.append(chunk)
        return original(head, features, targets, chunk, **others)

    monkeypatch.setattr(forward, "selected_logps", seeing)
    return seen


def test_layers_that_are_computed_again_have_short_chunks(
    chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selected, "CHUNK_LOGITS", 0)  # as for a vocabulary without end
    monkeypatch.setattr(selected, "CHUNK_LEAST", 1024)
    batch = collate(support.examples()[:1])
    for checkpointing in ("none", "attention", "layers"):
        made(checkpointing).logps(batch)
    assert chunks[0] == chunks[1] > chunks[2] == selected.CHUNK_ROWS


def test_chunks_know_the_gpus_memory(chunks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    trained, batch = made(), collate(support.examples()[:1])
    trained.logps(batch)
    assert gpu_memory() == 0
    monkeypatch.setattr(forward, "gpu_memory", lambda: 48 * GIB)
    trained.logps(batch)
    assert max(chunks) > min(chunks)
    vocabulary, lanes = trained._forward.vocabulary, trained._forward.lanes
    assert set(chunks) == {chunk_positions(vocabulary, lanes), chunk_positions(vocabulary, lanes, 48 * GIB)}
