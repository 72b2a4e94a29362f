"""TRL's ORPOTrainer, DPOTrainer and CPOTrainer with loss_type "simpo", with peft, on torch's CPU device."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from tests.bench.peers.harness import GRADIENT_RATE, GradientFile, Recorder, Resident, first_adapter, main
from tests.bench.peers.workload import Workload, text_of

TRAINERS = {
    "orpo": (ORPOTrainer, ORPOConfig),
    "dpo": (DPOTrainer, DPOConfig),
    "simpo": (CPOTrainer, CPOConfig),
}


class Marks(TrainerCallback):
    """Marks the end of each step."""

    def __init__(self, recorder: Recorder, losses: list[float]) -> None:
        self._recorder, self._losses = recorder, losses

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimiser's update."""
        self._recorder.step(self._losses[-1])


def watched(base: type) -> type:
    """The trainer, its loss noted and its rows in the order they stand in."""

    class Watched(base):  # type: ignore[misc, valid-type]
        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(*arguments, **named)
            self.losses.append(loss.item())
            return loss

        def _get_train_sampler(self, *_: Any, **__: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    return Watched


def settings(workload: Workload, folder: str) -> dict[str, Any]:
    """Plain AdamW at a constant rate, nothing cut and nothing clipped."""
    own: dict[str, Any] = {"beta": workload.hyperparameters["beta"]}
    if workload.method == "simpo":
        own |= {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": workload.hyperparameters["gamma"]}
    return {
        **own,
        "output_dir": folder,
        "per_device_train_batch_size": workload.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": workload.steps,
        "learning_rate": workload.lr,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "max_length": workload.max_length,
        "gradient_checkpointing": workload.checkpointing,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def load(workload: Workload) -> Any:
    """The model with a fresh peft adapter: its B is zero, so the base is what DPO refers to."""
    model = AutoModelForCausalLM.from_pretrained(workload.folder, dtype=torch.float32)
    targets = sorted(name.rsplit(".", 1)[-1] for name in workload.modules)
    return get_peft_model(
        model, LoraConfig(r=workload.rank, lora_alpha=workload.rank * workload.scale, target_modules=targets)
    )


def adapter_parameters(model: Any, arrays: dict[str, np.ndarray]) -> dict[str, torch.nn.Parameter]:
    """peft's parameters under mlx-lm's names; theirs are transposed."""
    leaves = {"lora_a": "lora_A", "lora_b": "lora_B"}
    named = dict(model.named_parameters())
    found = {}
    for name in arrays:
        module, leaf = name.rsplit(".", 1)
        found[name] = named[f"base_model.model.{module}.{leaves[leaf]}.default.weight"]
    if sum(p.requires_grad for p in model.parameters()) != len(found):
        raise ValueError("TRL would train other arrays than the workload's adapter")
    return found


def check_rows(dataset: Dataset, workload: Workload) -> None:
    """The ids it will train on are the workload's."""
    for seen, row in zip(dataset, workload.rows, strict=True):
        prompt = seen["prompt_ids"] if "prompt_ids" in seen else seen["prompt_input_ids"]
        for name, want in (("chosen", row.chosen), ("rejected", row.rejected)):
            whole = prompt + seen[f"{name}_ids"] if f"{name}_ids" in seen else seen[f"{name}_input_ids"]
            if prompt != row.prompt or whole != row.prompt + want:
                raise ValueError("TRL tokenised a row differently")


def run(
    workload: Workload, recorder: Recorder, gradient: GradientFile | None, options: dict[str, str]
) -> None:
    """Load, attach, train."""
    torch.set_num_threads(os.cpu_count() or 1)
    tokenizer = AutoTokenizer.from_pretrained(workload.folder)
    vocab = len(tokenizer)
    rows = [
        {
            "prompt": text_of(row.prompt, vocab),
            "chosen": " " + text_of(row.chosen, vocab),
            "rejected": " " + text_of(row.rejected, vocab),
        }
        for row in workload.rows
    ]
    model, arrays = load(workload), first_adapter(workload)
    parameters = adapter_parameters(model, arrays)
    losses: list[float] = []
    trainer_class, config_class = TRAINERS[workload.method]
    optimiser = torch.optim.SGD(parameters.values(), GRADIENT_RATE) if gradient else None
    with tempfile.TemporaryDirectory() as folder:
        trainer = watched(trainer_class)(
            model=model,
            args=config_class(**settings(workload, folder)),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Marks(recorder, losses)],
            optimizers=(optimiser, None),
        )
        trainer.losses = losses
        check_rows(trainer.train_dataset, workload)
        for name, value in arrays.items():  # now that DPO's reference, if it took a copy, is the base
            parameters[name].data.copy_(torch.tensor(value.T.copy()))
        recorder.begin()
        trainer.train()
        recorder.end()
    recorder.notes["threads"] = torch.get_num_threads()
    if gradient:
        gradient.from_step({name: p.detach().numpy().T for name, p in parameters.items()})


if __name__ == "__main__":
    main(run, Resident())
