"""A run's configuration as a file: written, read back, and refused when it is damaged."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mlx_align import methods
from mlx_align.config import (
    AdapterConfig,
    DataConfig,
    EvalConfig,
    MethodConfig,
    OptimConfig,
    RewardConfig,
    RunConfig,
    TrainConfig,
)
from mlx_align.errors import ConfigError
from mlx_align.presets import PRESET_METHODS, PRESETS
from mlx_align.settings import gather, resolve
from mlx_align.toml import from_toml, read_toml, to_toml


def there_and_back(config: RunConfig) -> RunConfig:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_text(to_toml(config), encoding="utf-8")
        return from_toml(path)


@pytest.mark.parametrize("method", methods.METHODS)
@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_what_is_written_reads_back_equal(method: str, preset: str | None) -> None:
    if PRESET_METHODS.get(preset or "", method) != method:
        pytest.skip("the preset is another method's")
    config = resolve(gather(method, flags={}, preset=preset, environ={})).config
    assert there_and_back(config) == config


def test_rewards_keep_their_options() -> None:
    rewards = (RewardConfig(name="numeric"), RewardConfig(name="length", weight=0.5, target=20, other=None))
    read = there_and_back(RunConfig(rewards=rewards)).rewards
    assert [(one.name, one.weight, one.options) for one in read] == [
        ("numeric", 1.0, {}),
        ("length", 0.5, {"target": 20}),
    ]


ANY_TEXT = st.text(min_size=1, max_size=20)
LENGTHS = st.one_of(
    st.builds(TrainConfig, epochs=st.floats(0.01, 100), seed=st.integers(0, 2**31 - 1)),
    st.builds(TrainConfig, epochs=st.none(), steps=st.integers(1, 10**7)),
    st.builds(TrainConfig, batch_size=st.none(), tokens_per_batch=st.integers(1, 10**6)),
)
CONFIGS = st.builds(
    RunConfig,
    method=st.builds(MethodConfig, name=st.sampled_from(["orpo", "simpo"]), beta=st.floats(1e-6, 10)),
    data=st.builds(DataConfig, path=ANY_TEXT, valid_fraction=st.floats(0.01, 0.99)),
    adapter=st.builds(
        AdapterConfig,
        modules=st.one_of(st.just("mlp"), st.lists(ANY_TEXT, min_size=1, max_size=3).map(tuple)),
        layers=st.one_of(st.just("all"), st.integers(1, 99)),
        start=st.one_of(st.none(), ANY_TEXT),
    ),
    optim=st.builds(OptimConfig, lr=st.floats(1e-12, 1.0)),
    train=LENGTHS,
    eval=st.builds(EvalConfig, patience=st.one_of(st.none(), st.integers(1, 9))),
)


@given(CONFIGS)
@hypothesis_settings(deadline=None, max_examples=30)
def test_any_configuration_reads_back_equal(config: RunConfig) -> None:
    assert there_and_back(config) == config


def test_steps_in_the_file_do_not_bring_the_default_epochs_back(tmp_path: Path) -> None:
    config = RunConfig(train=TrainConfig(epochs=None, steps=5))
    assert there_and_back(config).train.epochs is None


def test_a_budget_in_the_file_does_not_bring_the_default_batch_size_back() -> None:
    config = RunConfig(train=TrainConfig(batch_size=None, tokens_per_batch=8192))
    assert there_and_back(config) == config


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().optim.lr = 1.0  # type: ignore[misc]


def test_an_error_in_a_file_has_path_and_line(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[optim]\nlr = 1e-4\nname = adamw\n")
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert caught.value.where == str(path)
    assert "line 3, column 8" in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(ConfigError, match="no such configuration file"):
        read_toml(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path)


def test_a_run_of_another_version_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(to_toml(RunConfig()) + "[telepathy]\non = true\n")
    with pytest.raises(ConfigError, match="telepathy") as caught:
        from_toml(path)
    assert caught.value.where == str(path)
