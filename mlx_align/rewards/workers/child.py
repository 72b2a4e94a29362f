"""The other side of `process.Child`: one function of one file, asked through a pipe.

    python -I -B child.py FILE FUNCTION REQUESTS REPLIES MEMORY ENGINE

REQUESTS and REPLIES are descriptors of pipes with a JSON object a line, MEMORY is in MiB, ENGINE is the
process that asks. Nothing of ours is imported here, so that this one holds nothing worth taking.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

MESSAGE = 400
"""Longest text of an exception that is passed on, in characters."""

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
"""Options of Linux's prctl; see its manual."""

Function = Callable[..., Any]


def main(arguments: list[str]) -> None:
    """Load the function, say so, and answer requests until they end."""
    file, name = arguments[0], arguments[1]
    requests, replies, memory, engine = map(int, arguments[2:])
    _bind(engine)
    _limit(memory)
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, waiting), daemon=True).start()
    try:
        function = _load(file, name)
    except BaseException as error:
        _reply(replies, {"failed": describe(error, file)})
        return
    _reply(replies, {"ready": True})
    while True:
        request = json.loads(waiting.get())
        _reply(replies, {"id": request["id"], **_answer(function, request["arguments"], file)})


def _bind(engine: int) -> None:
    """On Linux, end with the thread that started this process and keep its memory from others of the user."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        if os.getppid() != engine:  # it ended before it could be bound to
            os._exit(0)


def _limit(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory << 20, memory << 20))
    except (ValueError, OSError):  # macOS knows the limit and does not keep it
        return


def _listen(requests: int, waiting: queue.SimpleQueue[bytes]) -> None:
    """Take requests as they come. When they end, the engine has ended, and so does this process.

    That works while the function runs Python. A call into C that never gives up the interpreter's lock stops
    this thread too: then `_bind` ends the process on Linux, and elsewhere it lives until the call is over.
    """
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            waiting.put(line)
    os._exit(0)


def _load(file: str, name: str) -> Function:
    sys.path.append(str(Path(file).parent))  # last: a numpy.py beside the file is not numpy
    spec = importlib.util.spec_from_file_location("reward_file", file)
    if spec is None or spec.loader is None:
        raise ImportError("this is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["reward_file"] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise AttributeError(f"there is no function '{name}' in it")
    found: Function = function
    return found


def _answer(function: Function, arguments: dict[str, Any], file: str) -> dict[str, Any]:
    """The function's value, or what is wrong with it."""
    owner = os.getpid()
    try:
        value = function(arguments.pop("completion"), **arguments)
        if not isinstance(value, Real):
            return {"error": f"returned {value!r:.80}, a {type(value).__name__} and not a number"}
        return {"value": float(value)}
    except BaseException as error:  # sys.exit() is no way to end a run
        return {"error": describe(error, file)}
    finally:
        if os.getpid() != owner:  # the function forked: only the process that was asked answers
            os._exit(0)


def describe(error: BaseException, file: str) -> str:
    """An exception's type and message, and the last line of the file that it passed."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == file else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    try:
        said = str(error)[:MESSAGE]
    except Exception:  # its __str__ is the file's code as well
        said = ""
    place = f" ({Path(file).name}, line {line})" if line is not None else ""
    return f"{type(error).__name__}: {said}{place}" if said else f"{type(error).__name__}{place}"


def _reply(replies: int, content: dict[str, Any]) -> None:
    rest = json.dumps(content).encode() + b"\n"
    while rest:
        rest = rest[os.write(replies, rest) :]


if __name__ == "__main__":
    main(sys.argv[1:])
