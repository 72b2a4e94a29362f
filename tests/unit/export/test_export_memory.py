"""An export needs less than twice the largest file of its base, whatever the model's size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlx_align.export import adapter as adapters
from mlx_align.export.adapter import Adapter, Module
from mlx_align.export.base import Base
from mlx_align.export.tensors import Writer, encode
from mlx_align.weights import INDEX

WIDTH, LAYERS, SHARDS = 2048, 8, 2
PARTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")

MEASURED = """
import resource, sys
from pathlib import Path
from mlx_align.export import adapter
from mlx_align.export.base import Base
from mlx_align.export.formats import fused, hf
from tests.unit.export.provenances import PROVENANCE

folder = Path(sys.argv[1])
read, base = adapter.read(folder / "adapter"), Base.open(folder / "base")
if sys.argv[2] == "hf":
    hf.write(folder / "out", read, base, PROVENANCE)
else:
    fused.write(folder / "out", read, base, PROVENANCE, "again", 4)
status = Path("/proc/self/status")
if status.exists():  # getrusage would count what the process that started this one had, too
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def big_model(folder: Path) -> Base:
    """A random llama of some 200 MB in bfloat16, in two files."""
    folder.mkdir()
    data = encode(np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32), "BF16")
    names = [f"model.layers.{layer}.{part}.weight" for layer in range(LAYERS) for part in PARTS]
    weight_map = {}
    for shard in range(SHARDS):
        mine, file = names[shard::SHARDS], f"model-{shard}.safetensors"
        with Writer(folder / file, [(name, "BF16", (WIDTH, WIDTH)) for name in mine], {}) as writer:
            for name in mine:
                writer.write(name, data)
        weight_map |= dict.fromkeys(mine, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": LAYERS}))
    return Base.open(folder)


@pytest.mark.parametrize("kind", ["hf", "fused"])
def test_memory_stays_below_two_files(kind: str, tmp_path: Path) -> None:
    base = big_model(tmp_path / "base")
    rng = np.random.default_rng(1)
    modules = {
        name.removesuffix(".weight"): Module(*rng.standard_normal((2, 8, WIDTH)).astype(np.float32))
        for name in base.tensors
    }
    modules = {name: Module(module.a, module.b.T.copy()) for name, module in modules.items()}
    (tmp_path / "adapter").mkdir()
    facts = adapters.describe(modules, LAYERS, 1.0, 0.0)
    adapters.write(tmp_path / "adapter", Adapter(modules, 1.0, 0.0, facts))
    (tmp_path / "out").mkdir()
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path), kind],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    largest = max(file.stat().st_size for file in base.folder.glob("*.safetensors"))
    written = Base.open(tmp_path / "out")
    assert written.parameters == base.parameters
    assert int(done.stdout) < 2 * largest
    print(f"{kind}: {int(done.stdout) / 1e6:.0f} MB for files of {largest / 1e6:.0f} MB")
