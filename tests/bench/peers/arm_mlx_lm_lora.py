"""mlx-lm-lora's train_orpo, train_dpo and train_cpo.

Disclosed: `mx.device_info` is made to report `max_recommended_working_set_size`, which its CPU device lacks
and without which the trainers do not start; its CPO trainer, which has no SimPO, is given SimPO through
its `loss_fn` argument, with loss_type "ipo" so that it hands over mean log-probabilities.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.bench.peers.mlx_arms import MlxMemory, adapter_of, load_adapter  # first: preloads OpenBLAS

# isort: split
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx_lm import load
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm_lora.trainer.cpo_trainer import CPOTrainingArgs, train_cpo
from mlx_lm_lora.trainer.dpo_trainer import DPOTrainingArgs, train_dpo
from mlx_lm_lora.trainer.orpo_trainer import ORPOTrainingArgs, train_orpo

from tests.bench.peers.harness import GRADIENT_RATE, GradientFile, Recorder, first_adapter, main
from tests.bench.peers.workload import Row, Workload


class OneBatchAtATime:
    """A dataset that is the current batch: the trainer makes a new, random iterator every step."""

    def __init__(self, workload: Workload) -> None:
        self._workload, self._step = workload, 0

    def __len__(self) -> int:
        return self._workload.batch

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _item(self._workload.batch_rows(self._step)[index])

    def next(self) -> None:
        """Go on to the next step's rows."""
        self._step = min(self._step + 1, self._workload.steps - 1)


class AfterStep:
    """The trainer's callback: marks the step and turns the page."""

    def __init__(self, recorder: Recorder, data: OneBatchAtATime) -> None:
        self._recorder, self._data = recorder, data

    def on_train_loss_report(self, info: dict[str, Any]) -> None:
        """After every update, because steps_per_report is 1."""
        self._recorder.step(info["train_loss"])
        self._data.next()

    def on_val_loss_report(self, info: dict[str, Any]) -> None:
        """There is no validation."""


def simpo_loss(
    *, policy_chosen_score, policy_rejected_score, chosen_masks, rejected_masks, beta, delta, loss_type
):
    """SimPO in the form that `train_cpo` asks of a loss; `delta` carries gamma."""
    losses = -nn.log_sigmoid(beta * (policy_chosen_score - policy_rejected_score) - delta)
    rewards = beta * mx.stack([policy_chosen_score.mean(), policy_rejected_score.mean()])
    tokens = chosen_masks[:, 1:].sum() + rejected_masks[:, 1:].sum()
    return losses.mean(), rewards, tokens, {"margins": rewards[0] - rewards[1]}


def pretend_working_set() -> None:
    """Let `mx.device_info` report the key that the trainers read, where it does not."""
    known = mx.device_info()
    if "max_recommended_working_set_size" not in known:
        mx.device_info = lambda *_: {**known, "max_recommended_working_set_size": 0}
        mx.set_wired_limit = lambda limit: limit


def run(
    workload: Workload, recorder: Recorder, gradient: GradientFile | None, options: dict[str, str]
) -> None:
    """Load, attach, train."""
    pretend_working_set()
    model, _ = load(str(workload.folder))
    model.freeze()
    shape = {"rank": workload.rank, "scale": workload.scale, "dropout": 0.0, "keys": workload.modules}
    linear_to_lora_layers(model, workload.layers, shape)
    load_adapter(model, first_adapter(workload))
    rate = GRADIENT_RATE if gradient else workload.lr
    optimizer = optim.SGD(rate) if gradient else optim.AdamW(rate, weight_decay=0.0, bias_correction=True)
    data = OneBatchAtATime(workload)
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "batch_size": workload.batch,
            "iters": workload.steps,
            "steps_per_report": 1,
            "steps_per_save": 10**9,
            "max_seq_length": workload.max_length,
            "grad_checkpoint": workload.checkpointing,
            "adapter_file": str(Path(folder) / "adapters.safetensors"),
        }
        told = {
            "model": model,
            "optimizer": optimizer,
            "train_dataset": data,
            "training_callback": AfterStep(recorder, data),
        }
        _train(workload, recorder, common, told)
    recorder.end()
    if gradient:
        gradient.from_step(adapter_of(model))


def _train(workload: Workload, recorder: Recorder, common: dict[str, Any], told: dict[str, Any]) -> None:
    beta = workload.hyperparameters["beta"]
    if workload.method == "orpo":
        recorder.begin()
        train_orpo(args=ORPOTrainingArgs(beta=beta, **common), **told)
    elif workload.method == "dpo":
        reference, _ = load(str(workload.folder))  # as its own command line does
        reference.freeze()
        mx.eval(reference.parameters())
        recorder.begin()
        train_dpo(ref_model=reference, args=DPOTrainingArgs(beta=beta, **common), **told)
    else:
        args = CPOTrainingArgs(beta=beta, delta=workload.hyperparameters["gamma"], loss_type="ipo", **common)
        recorder.begin()
        train_cpo(loss_fn=simpo_loss, args=args, **told)


def _item(row: Row) -> dict[str, Any]:
    length = len(row.prompt)
    return {
        "chosen": row.prompt + row.chosen,
        "rejected": row.prompt + row.rejected,
        "chosen_prompt_length": length,
        "rejected_prompt_length": length,
    }


if __name__ == "__main__":
    main(run, MlxMemory())
