"""llama.cpp in a process of its own: it ends its process where it meets something it did not expect.

`python -m mlx_align.export.llama_worker JSON` loads what its argument names, then answers every JSON line
that it reads: {"do": "logps" | "encode" | "complete" | "chat", ...} -> {"value": ...} or {"error": text}.
What llama.cpp prints goes to standard error. It ends when its input does.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import secrets
import sys
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

EVERY_TOKEN = 1 << 24
"""The server cuts it to the vocabulary."""

GREEDY: dict[str, Any] = {"temperature": 0.0, "top_k": 1, "cache_prompt": False}


class Loader(Protocol):
    """What either library answers."""

    def logps(self, ids: list[int]) -> NDArray[np.float64]:
        """Log-probabilities of the next token, (V,); the model's own, before any sampling option."""

    def encode(self, text: str) -> list[int]:
        """The text's token ids; special tokens are recognised, none is added."""

    def complete(self, ids: list[int], limit: int) -> str:
        """The greedy continuation, at most `limit` tokens, without the token that ends it."""

    def chat(self, messages: list[dict[str, str]], limit: int) -> str:
        """The greedy answer to messages {role, content}, rendered by the file's own template."""


class XLlama:
    """xllamacpp: llama.cpp's server within this process, asked over the loopback with a key of its own."""

    def __init__(self, model: str, adapter: str | None, context: int, threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = model
        params.n_ctx, params.n_parallel, params.n_gpu_layers = context, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.fit_params = params.warmup = params.endpoint_slots = False
        params.cache_ram_mib = 0
        if adapter is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
        self._key = secrets.token_hex(16)
        params.api_keys = [self._key]
        self._server = xllamacpp.Server(params)
        # Part of a character comes without numbers, so a letter is drawn; they are from before the bias.
        self._letter = self.encode("a")[-1]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        """A request's answer.

        Raises:
            RuntimeError: the server refuses it.
        """
        connection = http.client.HTTPConnection(self._server.listening_address.removeprefix("http://"))
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        connection.request("POST", path, json.dumps(body), headers)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        if "error" in answer:
            raise RuntimeError(answer["error"]["message"])
        return answer

    def logps(self, ids: list[int]) -> NDArray[np.float64]:
        """From the answer's list of all tokens, (V,)."""
        body = {
            **GREEDY,
            "prompt": ids,
            "n_predict": 1,
            "n_probs": EVERY_TOKEN,
            "logit_bias": [[self._letter, 1e6]],
        }
        top = self._post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        logps = np.full(1 + max(entry["id"] for entry in top), -np.inf)
        for entry in top:
            logps[entry["id"]] = np.nan if entry["logprob"] is None else entry["logprob"]
        return logps

    def encode(self, text: str) -> list[int]:
        """As the server tokenises."""
        body = {"content": text, "parse_special": True, "add_special": False}
        return [int(token) for token in self._post("/tokenize", body)["tokens"]]

    def complete(self, ids: list[int], limit: int) -> str:
        """As the server continues."""
        return str(self._post("/completion", {**GREEDY, "prompt": ids, "n_predict": limit})["content"])

    def chat(self, messages: list[dict[str, str]], limit: int) -> str:
        """As the server answers a chat."""
        body = {**GREEDY, "messages": messages, "max_tokens": limit}
        message = self._post("/v1/chat/completions", body)["choices"][0]["message"]
        return str(message["content"])


class LlamaCppPython:
    """llama-cpp-python, by its `Llama`."""

    def __init__(self, model: str, adapter: str | None, context: int, threads: int) -> None:
        import llama_cpp

        self._library = llama_cpp
        self._llama = llama_cpp.Llama(
            model,
            lora_path=adapter,
            n_ctx=context,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=0,
            type_k=0,  # float32
            type_v=0,
            flash_attn=False,
            verbose=False,
        )
        if adapter is not None and not bool(self._llama._lora_adapter):  # or it would segfault later
            raise RuntimeError(f"the adapter {adapter} could not be loaded")

    def _logits(self, ids: list[int]) -> NDArray[np.float64]:
        """The next token's logits after more tokens, (V,)."""
        self._llama.eval(ids)
        pointer = self._library.llama_get_logits_ith(self._llama.ctx, -1)
        return np.ctypeslib.as_array(pointer, shape=(self._llama.n_vocab(),)).astype(np.float64)

    def logps(self, ids: list[int]) -> NDArray[np.float64]:
        """From the logits, (V,)."""
        self._llama.reset()
        logits = self._logits(ids)
        logits -= logits.max()
        return np.asarray(logits - np.log(np.exp(logits).sum()))

    def encode(self, text: str) -> list[int]:
        """As the library tokenises."""
        return list(self._llama.tokenize(text.encode(), add_bos=False, special=True))

    def complete(self, ids: list[int], limit: int) -> str:
        """The largest logit's token, again and again."""
        self._llama.reset()
        made: list[int] = []
        logits = self._logits(ids)
        while len(made) < limit and (token := int(logits.argmax())) != self._llama.token_eos():
            made.append(token)
            logits = self._logits([token])
        return str(self._llama.detokenize(made).decode(errors="replace"))

    def chat(self, messages: list[dict[str, str]], limit: int) -> str:
        """As the library answers a chat."""
        answer = self._llama.create_chat_completion(messages, temperature=0.0, max_tokens=limit)
        return str(answer["choices"][0]["message"]["content"])


LIBRARIES: dict[str, type[XLlama] | type[LlamaCppPython]] = {"xllamacpp": XLlama, "llama_cpp": LlamaCppPython}
"""Importable name -> its loader, in order of preference."""


def installed() -> str | None:
    """The first of the libraries that is installed; it is not imported."""
    return next((name for name in LIBRARIES if importlib.util.find_spec(name) is not None), None)


def answer(loader: Loader, request: dict[str, Any]) -> Any:
    """One request's value."""
    if request["do"] == "logps":
        logps = loader.logps(request["ids"])
        return [float(logps[token]) if token < len(logps) else -np.inf for token in request["tokens"]]
    if request["do"] == "encode":
        return loader.encode(request["text"])
    if request["do"] == "complete":
        return loader.complete(request["ids"], request["limit"])
    return loader.chat(request["messages"], request["limit"])


def main() -> None:
    """Load, say so, answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print is no answer

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    facts = json.loads(sys.argv[1])
    try:
        loader: Loader = LIBRARIES[facts.pop("library")](**facts)
    except Exception as error:
        say({"error": str(error)})
        sys.exit(1)  # in good order, so that llama.cpp's log is whole
    say({"value": "loaded"})
    for line in sys.stdin:
        try:
            say({"value": answer(loader, json.loads(line))})
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})
    os._exit(0)  # nothing is left to be written, and the server's threads take their time


if __name__ == "__main__":
    main()
