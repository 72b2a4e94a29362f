"""The arms: which module runs where, what each computes, and what had to be done to make it start."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.bench.peers.oracle import BY_ROW, RESPONSE, WHOLE


@dataclass(frozen=True)
class Contender:
    """One arm.

    Attributes:
        title: for a table.
        module: in tests.bench.peers.
        environment: a name in `environments.ENVIRONMENTS`, or None for the one this is started from.
        framework: whose matrix products it is measured against.
        orpo: the tokens ORPO's likelihood is taken over; None: it has no ORPO in this form.
        twin: our arm with the same definition of ORPO, and so the same work.
        options: for the module.
        disclosed: what differs from a plain installation.
    """

    title: str
    module: str
    environment: str | None = None
    framework: str = "mlx"
    orpo: str = RESPONSE
    twin: str = "ours"
    only: tuple[str, ...] = ("orpo", "dpo", "simpo")
    options: dict[str, str] = field(default_factory=dict)
    disclosed: tuple[str, ...] = ()

    def definition(self, method: str) -> str:
        """The oracle's definition that it claims."""
        return self.orpo if method == "orpo" else RESPONSE


OURS = ("ours", "ours-whole")
CONTENDERS = {
    "ours": Contender("mlx-align", "arm_ours"),
    "ours-whole": Contender(
        "mlx-align, nll = prompt+response",
        "arm_ours",
        orpo=WHOLE,
        twin="ours-whole",
        only=("orpo",),
        options={"nll": WHOLE},
    ),
    "mlx-lm-lora": Contender(
        "mlx-lm-lora",
        "arm_mlx_lm_lora",
        "mlx-lm-lora",
        orpo=BY_ROW,
        disclosed=(
            "mx.device_info is made to report max_recommended_working_set_size, without which the trainers "
            "do not start on MLX's CPU device, and mx.set_wired_limit, which gets that value, does nothing",
            "its CPO trainer, which has no SimPO, is given SimPO through its loss_fn argument",
            "installed without its own requirements, beside mlx, mlx-lm and datasets",
        ),
    ),
    "unsloth": Contender(
        "unsloth_zoo, MLX path",
        "arm_unsloth",
        "unsloth",
        orpo=WHOLE,
        twin="ours-whole",
        disclosed=(
            "platform.system and platform.machine say Darwin and arm64 while unsloth_zoo is imported: "
            "its MLX path hides itself elsewhere",
            "installed without its own requirements, beside mlx, mlx-lm, mlx-vlm, transformers and datasets",
            "compile_auto_tune, which may turn checkpointing on, is off",
        ),
    ),
    "trl": Contender("TRL, torch CPU", "arm_trl", framework="torch", orpo=WHOLE, twin="ours-whole"),
}


def twin_of(name: str, method: str) -> str:
    """Our arm that does the same work."""
    return CONTENDERS[name].twin if method == "orpo" else "ours"
