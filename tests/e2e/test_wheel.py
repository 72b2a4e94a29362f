"""The wheel works where there is no checkout: the embedded model and the samples are inside it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_wheel_trains_in_an_empty_environment(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel],
        check=True, capture_output=True,
    )  # fmt: skip
    # Dependencies come from the environment that runs this test, as bare files: a .pth line adds a folder to
    # the path without reading the .pth files inside it, so the checkout's editable install stays out.
    site = next((tmp_path / "env" / "lib").glob("python*")) / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    where = subprocess.run(
        [python, "-c", "import mlx_align, mlx_align_cli; print(mlx_align.__file__, mlx_align_cli.__file__)"],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert str(ROOT) not in where.stdout
    command = [tmp_path / "env" / "bin" / "mlx-align", "orpo", "--steps", "20", "--set", "eval.rows=16"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    adapter = Path(done.stdout.strip())
    assert (tmp_path / adapter / "adapters.safetensors").is_file()
