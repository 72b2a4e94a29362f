from __future__ import annotations

import json

import pytest

from mlx_align.engine import selftest
from mlx_align.engine.selftest import Check

GOOD = Check("orpo loss", 1e-7, 1e-5)
BAD = Check("adapter read back from disk", float("nan"), 1e-4)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """The selftest finds these, at once."""
    found = [GOOD]

    def run(config, progress):
        progress(f"looking at {config.name}")
        return selftest.Report(
            tested=f"{config.name}:cpu", reference="torch:cpu", dtype="float32",
            versions={"mlx": "1", "numpy": "2"}, environment={"MLX_ENABLE_TF32": "0"}, checks=found,
        )  # fmt: skip

    monkeypatch.setattr(selftest, "run", run)
    return found


def test_the_table_is_on_stdout_and_progress_is_not(cli, checks):
    result = cli("doctor", "--selftest", "--backend", "mlx")
    assert result.code == 0
    assert "mlx-align selftest: mlx:cpu (float32) against torch:cpu" in result.out
    assert "| orpo loss |    1.0e-07 |     1e-05 | ok   |" in result.out.splitlines()
    assert "mlx 1, numpy 2, MLX_ENABLE_TF32=0\n" in result.out
    assert result.out.endswith("all agree.\n")
    assert result.err == "looking at mlx\n"


def test_a_disagreement_is_exit_code_1(cli, checks):
    checks.append(BAD)
    result = cli("doctor", "--selftest")
    assert result.code == 1
    assert "| nan |" in " ".join(result.out.split())
    assert "1 of 2 disagree" in result.out
    tree = json.loads(cli("doctor", "--selftest", "--json").out)
    assert tree["passed"] is False
    assert [check["passed"] for check in tree["checks"]] == [True, False]
    assert tree["tested"] == "mlx:cpu"


def test_a_dtype_without_tolerances_is_refused(cli, checks):
    assert cli("doctor", "--selftest", "--dtype", "tf32").code == 2


@pytest.mark.parametrize(
    ("option", "wrong", "choice"), [("--backend", "tensorflow", "torch"), ("--device", "metal", "mps")]
)
def test_a_choice_that_there_is_not_is_told_with_those_that_there_are(
    cli, checks, option: str, wrong: str, choice: str
):
    result = cli("doctor", "--selftest", option, wrong)
    assert (result.code, result.out) == (2, "")
    assert f"'{choice}'" in result.err
    assert f'"{wrong}"' in result.err
    assert f"where: {option}\n" in result.err


@pytest.mark.parametrize("option", ["--backend=torch", "--device=cpu", "--dtype=float32"])
def test_doctor_refuses_what_only_the_selftest_uses(cli, option: str):
    result = cli("doctor", option)
    assert result.code == 2
    assert "--selftest" in result.err
