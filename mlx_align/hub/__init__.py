"""From what a person calls a model to a folder on this disk.

"tiny-chat" is the embedded model, an existing path is a local folder, anything of the form
"owner/name" is fetched from the Hugging Face hub once and found in its cache from then on.
"""

from __future__ import annotations

from mlx_align.hub.fetching import fetch, is_missing
from mlx_align.hub.listing import COMPANIONS, Parcel, parcel
from mlx_align.hub.models import outline, resolve_gguf, resolve_model
from mlx_align.hub.source import HUB_ID, ModelSource, is_of_the_hub

__all__ = [
    "COMPANIONS",
    "HUB_ID",
    "ModelSource",
    "Parcel",
    "fetch",
    "is_missing",
    "is_of_the_hub",
    "outline",
    "parcel",
    "resolve_gguf",
    "resolve_model",
]
