"""`python -m mlx_align.backends.mlx.server NAME ...`: mlx-lm's OpenAI-compatible server, with one model.

The options after NAME are those of `mlx_lm.server`. It differs from that in four ways. OpenBLAS is under it
where there is no GPU. Every request is answered by the model and adapter it was started with: mlx-lm gives an
app that names any model the bare one, or downloads what was named. A config.json in transformers 5's words is
understood (see `rope_names`). And it ends when its stdin does, so it
never outlives the program that started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

from mlx_lm import server

from mlx_align.backends.mlx.longrope import NOTE
from mlx_align.rope_names import older_names_of, turns_by_length

DEFAULT = "default_model"
"""mlx-lm's word for what the server was started with."""
_load = server.load


class OneModel(server.ModelProvider):  # type: ignore[misc]
    """Loads nothing but what the server was started with."""

    def load(
        self, model_path: str, adapter_path: str | None = None, draft_model_path: str | None = None
    ) -> Any:
        """The model and its tokenizer, whatever is named."""
        return super().load(DEFAULT, None, DEFAULT)


def main(arguments: list[str]) -> None:
    """Serve until SIGINT or the end of stdin.

    Args:
        arguments: the name under which the model is listed, then mlx-lm's own options.
    """
    name, *options = arguments

    def list_models(handler: Any) -> None:
        handler._set_completion_headers(200)
        handler.end_headers()
        entry = {"id": name, "object": "model", "created": handler.created}
        handler.wfile.write(json.dumps({"object": "list", "data": [entry]}).encode())

    server.load = load
    server.ModelProvider = OneModel
    server.APIHandler.handle_models_request = list_models
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    warnings.filterwarnings("ignore", message="mlx_lm.server is not recommended for production")
    sys.argv = ["mlx_lm.server", *options]
    _end(_served())


def load(folder: str, *given: Any, **options: Any) -> Any:
    """What mlx-lm's function of this name returns, for a config.json in any words; differences are told."""
    if turns_by_length(Path(folder)):
        print(NOTE, file=sys.stderr, flush=True)
    return _load(folder, *given, model_config=older_names_of(Path(folder)), **options)


def _served() -> int:
    try:
        server.main()
    except BaseException:  # whatever it is, the thread that answers would keep this process alive
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> None:
    """End at once: MLX's threads have been seen to abort while the interpreter takes them apart."""
    sys.stderr.flush()
    os._exit(code)


def _end_with_stdin() -> None:
    while os.read(0, 1 << 12):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main(sys.argv[1:])
