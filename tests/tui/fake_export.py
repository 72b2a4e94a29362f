"""A scripted `mlx-align export` and `mlx-align verify`: it says what they say in JSON, and computes nothing.

`python fake_export.py SCRIPT export RUN --to TARGET ... --json`, the script being

    ok          writes an export, and verifies it
    blind       writes one that could not be verified
    bad         says that the verification failed
    early       ends before it could say anything in JSON
    hang        writes for ever; takes away what it wrote when it is interrupted
    stubborn    the same, and does not let itself be interrupted
    compare     compares quantisations
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

FIGURES = {
    "loader": "llama.cpp", "contexts": 32, "difference": 0.00012, "kl": 3.1e-7, "kl_max": 2e-6,
    "effect": 0.0125, "share": 0.998, "share_error": 0.001, "agreement": 1.0, "other_tokens": [],
}  # fmt: skip
GOOD = {"verified": True, "figures": FIGURES, "reason": None, "warnings": []}
UNVERIFIED = {"verified": False, "figures": None, "reason": "llama.cpp is not installed", "warnings": []}


def say(**message: Any) -> None:
    """Send a message."""
    print(json.dumps(message), flush=True)


def main(script: str, command: str, path: Path, arguments: list[str]) -> int:
    """Do what the script says; returns the exit code."""
    print("a library says hello")
    if script == "early":
        print("error: the base cannot be found\n  where: model\n  next:  Fetch it again.", file=sys.stderr)
        return 2
    if command == "verify":
        say(**GOOD)
        return 0
    target = arguments[arguments.index("--to") + 1]
    say(type="progress", stage="writing", detail=f"the {target}")
    writing = path / "exports" / f".{target}-{os.getpid()}-x1"
    writing.mkdir(parents=True)
    try:
        return export(script, target, path, arguments, writing)
    finally:
        if script != "stubborn":
            shutil.rmtree(writing, ignore_errors=True)


def export(script: str, target: str, run: Path, arguments: list[str], writing: Path) -> int:
    """Export one target."""
    if script == "stubborn":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if script in ("hang", "stubborn"):
        say(type="progress", stage="verifying", detail="with llama.cpp")
        threading.Event().wait()
    say(type="progress", stage="asking", detail="the trained model, on mlx")
    say(type="progress", stage="verifying", detail="with llama.cpp")
    if script == "bad":
        message = "the export failed its verification, and nothing is left of it: the adapter is not in it"
        say(type="failed", target=target, message=message, where="llama.cpp", hint="Please report it.")
        return 1
    if script == "compare":
        for how, bits, kl in (("kept", None, 0.004), ("again", 4, 0.031)):
            warnings = ["quantising changes more than what was learnt"] if bits else []
            say(type="choice", quantization=how, bits=bits, size=8_400_000, figures={**FIGURES, "kl": kl},
                problems=[], warnings=warnings)  # fmt: skip
        return 0
    path = run / "exports" / target
    writing.rename(path)
    verification = UNVERIFIED if script == "blind" else GOOD
    (path / "model.bin").write_bytes(b"0" * 16_900)
    origin = {"step": step_of(run, arguments)}
    facts = {"target": target, "verification": verification, "provenance": origin, "arguments": arguments}
    (path / "mlx-align.json").write_text(json.dumps(facts))
    say(
        type="exported", target=target, path=f"exports/{target}", size=16_900_000,
        verification=verification, notes=["the tokenizer is the base's"], next=f"use {target}", url=None,
    )  # fmt: skip
    return 0


def step_of(run: Path, arguments: list[str]) -> int:
    """The step that is exported: of the checkpoint that is named, else of the best; 0 if there is none."""
    names = [word.partition("=")[2] for word in arguments if word.startswith("--checkpoint=")]
    for newest in sorted((run / "checkpoints").glob("*/trainer.json"))[-1:]:
        names.append(json.loads(newest.read_text())["best_checkpoint"])
    return int(names[0].rpartition("-")[2]) if names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:]))
