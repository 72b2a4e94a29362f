"""The peer benchmark: real trainers on identical work, each in an environment that fits it (TRL in ours).

    python -m tests.bench.peers.environments     makes the peers' environments (once, about ten minutes)
    python -m tests.bench.peers.run              every cell, every arm; writes tests/bench/results/peers.json

The path of a measurement:

    cells ── workload ──> a folder: model, adapter, token ids ── arm_*.py (subprocess) ──> outcome.json
        ── gate (against oracle, float64) ──> summary ──> results/peers.json ── table ──> README

An arm runs the peer's own trainer from its public entry point; nothing of its loss or its loop is ours
(but SimPO's loss in mlx-lm-lora, which has none).
"""
