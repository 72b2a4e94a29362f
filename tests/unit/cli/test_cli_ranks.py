"""The program as one of several ranks. Launches that really train are in tests/e2e/test_distributed.py."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_align import launched
from mlx_align_cli import main, ranks


@pytest.fixture(autouse=True)
def _own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another rank takes over the signals, and lingers where it fails."""
    monkeypatch.setattr(ranks, "LINGER_SECONDS", 0.0)
    before = {number: signal.getsignal(number) for number in (1, 2, 14, 15)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], None]:
    """Make this process one of two ranks."""

    def become(rank: int) -> None:
        (tmp_path / "hosts.json").write_text('[["127.0.0.1:5000"], ["127.0.0.1:5001"]]')
        monkeypatch.setenv("MLX_RANK", str(rank))
        monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts.json"))

    return become


def test_a_rank_is_known_from_the_environment(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    assert launched.rank({}) is None
    assert launched.rank({"MLX_RANK": "0", "MLX_HOSTFILE": str(empty)}) is None, "mlx.launch -n 1"
    assert launched.rank({"MLX_RANK": "0", "MLX_WORLD_SIZE": "1"}) is None
    assert launched.rank({"MLX_RANK": "1", "MLX_WORLD_SIZE": "2"}) == 1
    assert launched.rank({"MLX_RANK": "0", "MLX_IBV_DEVICES": "devices.json"}) == 0


@pytest.mark.parametrize("words", [["orpo", "--detach"], ["runs", "resume", "last", "--detach"]])
def test_a_launched_run_cannot_be_detached(cli: Any, as_rank: Any, root: Path, words: list[str]) -> None:
    as_rank(0)
    result = cli(*words)
    assert result.code == 2
    assert "under mlx.launch a run cannot be detached" in result.err
    assert not root.exists()


def test_only_mlx_trains_on_several_ranks(cli: Any, as_rank: Any, root: Path) -> None:
    as_rank(0)
    result = cli("orpo", "--backend", "torch")
    assert result.code == 2
    assert "the torch backend trains on one machine only" in result.err
    assert not root.exists()


def test_a_script_cannot_train_on_several_ranks(as_rank: Any) -> None:
    import mlx_align
    from mlx_align.errors import UsageError

    as_rank(1)
    with pytest.raises(UsageError, match="cannot train on several ranks"):
        mlx_align.align("orpo")
    with pytest.raises(UsageError, match="cannot train on several ranks"):
        mlx_align.resume(mlx_align.RunDirectory(Path("runs")))


@pytest.mark.parametrize(
    "words",
    [["runs", "ls"], ["version"], ["doctor"], ["orpo", "--dry-run"], ["orpo", "--help"], ["--version"], []],
)
def test_another_rank_says_and_does_nothing(
    as_rank: Any, words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    as_rank(1)
    monkeypatch.setattr(ranks, "assist", lambda: pytest.fail("it trains"))
    monkeypatch.setattr("sys.argv", ["mlx-align", *words])
    with pytest.raises(SystemExit) as leaving:
        main.main()
    assert not leaving.value.code
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "words",
    [
        ["orpo"],
        ["--debug", "dpo", "no-such-model", "--steps", "3"],
        ["sft", "--resume", "x"],
        ["runs", "resume", "x"],
    ],
)
def test_another_rank_lends_its_machine_and_needs_no_settings(
    as_rank: Any, words: list[str], monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    as_rank(1)
    monkeypatch.setattr(ranks, "assist", lambda: 5)
    monkeypatch.setattr("sys.argv", ["mlx-align", *words])
    with pytest.raises(SystemExit) as leaving:
        main.main()
    assert leaving.value.code == 5
    assert not root.exists()


def test_a_mistake_in_the_command_line_is_told_once(
    as_rank: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    as_rank(1)
    monkeypatch.setattr("sys.argv", ["mlx-align", "orpo", "--nonsense"])
    with pytest.raises(SystemExit) as leaving:
        main.main()
    assert leaving.value.code == 2
    assert capfd.readouterr() == ("", "")
