"""unsloth_zoo's MLX trainers: MLXORPOTrainer, MLXDPOTrainer, MLXCPOTrainer with loss_type "simpo".

Disclosed: during `import unsloth_zoo` the platform says Darwin and arm64, without which the MLX path
hides itself. Its defaults stay (compiled steps, chunked cross-entropy), but clipping is off, and so is
compile_auto_tune, which may turn checkpointing on where the cell has it off.
"""

from __future__ import annotations

import platform
import tempfile
import time
from typing import Any

from tests.bench.peers.mlx_arms import MlxMemory, adapter_of, load_adapter  # first: preloads OpenBLAS


def import_as_on_a_mac() -> None:
    """Import unsloth_zoo with its MLX path."""
    system, machine = platform.system, platform.machine
    platform.system, platform.machine = (lambda: "Darwin"), (lambda: "arm64")
    try:
        import unsloth_zoo  # noqa: F401
        from unsloth_zoo.mlx.runtime import is_mlx_available
    finally:
        platform.system, platform.machine = system, machine
    if not is_mlx_available():
        raise RuntimeError("unsloth_zoo does not take its MLX path")


import_as_on_a_mac()
# isort: split
from unsloth_zoo.mlx import trainer as unsloth  # noqa: E402
from unsloth_zoo.mlx.loader import FastMLXModel  # noqa: E402

from tests.bench.peers.harness import GRADIENT_RATE, GradientFile, Recorder, first_adapter, main  # noqa: E402
from tests.bench.peers.workload import Workload, text_of  # noqa: E402

TRAINERS = {
    "orpo": (unsloth.MLXORPOTrainer, unsloth.MLXORPOConfig),
    "dpo": (unsloth.MLXDPOTrainer, unsloth.MLXDPOConfig),
    "simpo": (unsloth.MLXCPOTrainer, unsloth.MLXCPOConfig),
}


def load(workload: Workload) -> tuple[Any, Any]:
    """Its model with its adapter, and its tokenizer."""
    model, tokenizer = FastMLXModel.from_pretrained(
        str(workload.folder),
        max_seq_length=workload.max_length,
        load_in_4bit=False,
        dtype="float32",
        text_only=True,
    )
    model = FastMLXModel.get_peft_model(
        model,
        r=workload.rank,
        lora_alpha=workload.rank * workload.scale,
        target_modules=sorted(name.rsplit(".", 1)[-1] for name in workload.modules),
        use_gradient_checkpointing=workload.checkpointing,
    )
    load_adapter(model, first_adapter(workload))
    return model, tokenizer


def settings(workload: Workload, rate: float, optimiser: str, folder: str) -> dict[str, Any]:
    """Plain AdamW at a constant rate, rows as they stand, nothing cut and nothing clipped."""
    own: dict[str, Any] = {"beta": workload.hyperparameters["beta"]}
    if workload.method == "simpo":
        own |= {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": workload.hyperparameters["gamma"]}
    return {
        **own,
        "per_device_train_batch_size": workload.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": workload.steps,
        "warmup_steps": 0,
        "learning_rate": rate,
        "lr_scheduler_type": "constant",
        "optim": optimiser,
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "max_grad_leaf_norm": 0.0,
        "max_grad_value": 0.0,
        "logging_steps": 1,
        "output_dir": folder,
        "max_seq_length": workload.max_length,
        "max_length": workload.max_length,
        "max_prompt_length": workload.max_length - 1,
        "dataset_order": "sequential",
        "gradient_checkpointing": workload.checkpointing,
        "compile_auto_tune": False,
    }


def check_rows(plan: Any, workload: Workload) -> None:
    """The ids and the order it will train on are the workload's."""
    for seen, row in zip(plan.rows, workload.rows, strict=True):
        same = (
            tuple(seen.chosen_prompt_ids) == tuple(seen.rejected_prompt_ids) == tuple(row.prompt)
            and tuple(seen.chosen_ids) == tuple(row.chosen)
            and tuple(seen.rejected_ids) == tuple(row.rejected)
        )
        if not same:
            raise ValueError("unsloth_zoo tokenised a row differently")
    order = [index for batch in plan.schedule for index in batch]
    if order != list(range(len(workload.rows))):
        raise ValueError(f"unsloth_zoo ordered the rows differently: {order}")


def run(
    workload: Workload, recorder: Recorder, gradient: GradientFile | None, options: dict[str, str]
) -> None:
    """Load, attach, train."""
    model, tokenizer = load(workload)
    vocab = len(tokenizer.get_vocab())
    rows = [
        {
            "prompt": text_of(row.prompt, vocab),
            "chosen": " " + text_of(row.chosen, vocab),
            "rejected": " " + text_of(row.rejected, vocab),
        }
        for row in workload.rows
    ]
    rate, optimiser = (GRADIENT_RATE, "sgd") if gradient else (workload.lr, "adamw")
    trainer_class, config_class = TRAINERS[workload.method]
    with tempfile.TemporaryDirectory() as folder:
        args = config_class(**settings(workload, rate, optimiser, folder))
        trainer = trainer_class(model=model, tokenizer=tokenizer, train_dataset=rows, args=args)
        trainer.add_step_callback(lambda step, total, loss, *_: recorder.step(loss))
        prepare = trainer._prepare_data

        def prepare_and_check(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            plan, *rest = prepare(*arguments, **named)
            check_rows(plan, workload)
            recorder.notes["tokenising_seconds"] = time.perf_counter() - began  # within its train()
            return (plan, *rest)

        trainer._prepare_data = prepare_and_check
        recorder.begin()
        trainer.train()
        recorder.end()
        recorder.notes["gradient_checkpointing"] = bool(trainer.args.gradient_checkpointing)
    if gradient:
        gradient.from_step(adapter_of(model))


if __name__ == "__main__":
    main(run, MlxMemory())
