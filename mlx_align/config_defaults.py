"""What a config.json leaves out, because its architecture has a default for it.

google/gemma-3-4b-it names neither heads nor vocabulary, gemma-3-12b-it no width of a head, pixtral-12b no
query heads. The table has what transformers and mlx-lm fill in alike; where they do not agree, or nobody is
known to leave a key out, there is no entry, and the key is missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "gemma3": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
    },
    "pixtral": {"num_attention_heads": 32},
}
"""By the model_type of the whole model."""


def defaults(config: Mapping[str, Any]) -> Mapping[str, int]:
    """The values that hold for keys which neither a config.json nor its `text_config` has.

    Args:
        config: config.json.
    """
    return _DEFAULTS.get(str(config.get("model_type")), {})
