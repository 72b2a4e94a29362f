"""The cache of reference log-probabilities: what has an entry, and how much there may be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_align import __version__
from mlx_align.config import AdapterConfig, BackendConfig
from mlx_align.engine import reference_cache
from mlx_align.engine.reference_cache import ReferenceCache, Trouble, policy_digest
from mlx_align.engine.reporter import Reporter
from mlx_align.events import Alert, Event
from mlx_align.runs.shards import Rows

KEY, OTHER = b"k" * 32, b"o" * 32


class FakeBackend:
    def __init__(self, device: str = "mlx:cpu", version: str = "1") -> None:
        self.device, self._version = device, version

    def versions(self) -> dict[str, str]:
        return {"mlx": self._version}


def cache(root: Path, policy: str = "p", events: list[Event] | None = None, **options: Any) -> ReferenceCache:
    report = Reporter([].append if events is None else events.append)
    return ReferenceCache(root, policy, report, Trouble(root, report), **options)


def rows(key: bytes = KEY, numbers: int = 5, fill: float = 0.5) -> Rows:
    return {key: [np.full(numbers, fill, np.float32)]}


def identity(**changes: Any) -> str:
    facts: dict[str, Any] = {
        "weights": "w", "start": None, "adapter": AdapterConfig(), "config": BackendConfig(),
        "backend": FakeBackend(), "long": False,
    }  # fmt: skip
    return policy_digest(**{**facts, **changes})


def test_each_policy_has_its_own_entries(tmp_path: Path) -> None:
    cache(tmp_path).put(rows())
    assert list(cache(tmp_path).get([KEY, OTHER])) == [KEY]
    assert cache(tmp_path, "q").get([KEY]) == {}
    (tmp_path / "p").rename(tmp_path / "q")
    assert cache(tmp_path, "q").get([KEY]) == {}, "not even where files were moved about"


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "v"},
        {"start": "s"},
        {"long": True},
        {"adapter": AdapterConfig(type="dora")},
        {"config": BackendConfig(dtype="bfloat16")},
        {"config": BackendConfig(name="torch")},
        {"config": BackendConfig(name="torch", device="cuda", quantize="nf4")},
        {"backend": FakeBackend(device="mlx:metal")},
        {"backend": FakeBackend(version="2")},
    ],
)
def test_what_decides_the_values_decides_the_policy(changes: dict[str, Any]) -> None:
    assert identity(**changes) != identity()


def test_so_do_our_own_version_and_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity()
    monkeypatch.setattr(reference_cache, "FORMAT", 0)
    without_format = identity()
    monkeypatch.setattr(reference_cache, "__version__", f"{__version__}.1")
    assert len({before, without_format, identity()}) == 3


def test_a_fresh_lora_adapter_is_the_base_model_whatever_its_shape() -> None:
    assert (
        identity(adapter=AdapterConfig(rank=3, scale=9.0, dropout=0.5, modules="mlp", layers=1)) == identity()
    )
    one, other = (identity(adapter=AdapterConfig(type="dora", layers=layers)) for layers in (1, 2))
    assert one != other, "DoRA's norms are rounded in the layers that it is on"


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_what_is_not_finite_is_not_kept_for_others(tmp_path: Path, bad: float) -> None:
    cache(tmp_path).put({**rows(KEY, fill=bad), **rows(OTHER)})
    assert list(cache(tmp_path).get([KEY, OTHER])) == [OTHER]
    cache(tmp_path, "q").put(rows(KEY, fill=bad))
    assert not (tmp_path / "q").exists()


def test_what_was_unused_for_longest_makes_room(tmp_path: Path) -> None:
    for age, policy in enumerate(("oldest", "middle", "newest")):
        cache(tmp_path, policy).put(rows(numbers=1000))
        os.utime(tmp_path / policy, (age, age))
    size = sum(path.stat().st_size for path in (tmp_path / "oldest").iterdir())
    cache(tmp_path, "oldest", limit=3 * size).tidy()
    assert len(list(tmp_path.iterdir())) == 3
    cache(tmp_path, "middle").get([KEY])
    cache(tmp_path, "mine", limit=2 * size).put(rows(numbers=1000))
    cache(tmp_path, "mine", limit=2 * size).tidy()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "oldest"], "oldest was used since"
    cache(tmp_path, "mine", limit=0).tidy()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"], "what is in use stays"


def test_a_place_that_cannot_be_written_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    events: list[Event] = []
    mine = cache(tmp_path / "file" / "reference", events=events)
    assert mine.get([KEY]) == {}
    mine.put(rows())
    mine.put(rows(OTHER))
    mine.tidy()
    (alert,) = events
    assert isinstance(alert, Alert)
    assert (alert.code, alert.level) == ("no-cache", "warning")
    assert str(tmp_path / "file") in alert.message
    assert "runs.cache" in alert.message
