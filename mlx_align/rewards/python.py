"""Python: a function of a person's own file.

    def reward(completion, *, prompt, answer, row, tokens, truncated) -> float:

`completion` and `prompt` are text, `answer` is the row's right answer or None, `row` a dictionary of the
row's other columns, `tokens` the completion's length and `truncated` whether it was cut off. `**rest` may
stand for those that are not used. A function is only ever run because it was named: `--reward
file.py:function`, or `name = "file.py:function"` in a [[rewards]] table.

It runs in a process of its own, with limits on time and memory, without the engine's environment and with an
empty folder as its home, so that no token is at hand. That keeps its mistakes from the run; it is no sandbox,
for the file is its author's: it may open any file of the same user by its absolute path, and use the network.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator

from mlx_align.errors import UsageError
from mlx_align.paths import typed
from mlx_align.rewards.base import Options, Reward, Running, Tools
from mlx_align.rewards.workers import Limits, Worker
from mlx_align.rewards.workers.process import ChildError

FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<function>[^\W\d]\w*)")
"""How a function is named."""


def absolute(name: str) -> str:
    """The name of a function with its file's whole path, for a run that is resumed from elsewhere.

    Other names are left as they are.
    """
    named = FUNCTION.fullmatch(name)
    return f"{typed(named['file']).resolve()}:{named['function']}" if named else name


class PythonOptions(Options):
    """The function, and what it may use."""

    function: str = Field(description="file.py:function")
    timeout: float = Field(
        default=60.0, gt=0, description="seconds for all completions that are scored together"
    )
    memory: int = Field(default=8192, ge=64, description="MiB of address space; macOS does not keep it")

    @field_validator("function")
    @classmethod
    def _names_a_function(cls, function: str) -> str:
        if not FUNCTION.fullmatch(function):
            raise ValueError(f"'{function}' is not file.py:function")
        return function

    def anywhere(self) -> dict[str, str]:
        """The function, by its file's whole path."""
        return {"function": absolute(self.function)}

    @property
    def file(self) -> Path:
        """The file, absolute."""
        return Path(absolute(self.function).rpartition(":")[0])

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.rpartition(":")[2]


def start(options: PythonOptions, tools: Tools) -> Running:
    """The function in its process.

    Raises:
        UsageError: there is no such file or function, or the file cannot be loaded.
    """
    where = f"reward '{options.function}'"
    if not options.file.is_file():
        raise UsageError(f"there is no file '{options.file}'", where=where)
    try:
        return Worker(options.file, options.name, Limits(batch=options.timeout, memory=options.memory))
    except ChildError as error:
        raise UsageError(f"the file cannot be used: {error}", where=where) from None


def label(options: PythonOptions) -> str:
    """The file's name and the function's: "file.py:function"."""
    return f"{options.file.name}:{options.name}"


REWARD = Reward("python", "a function of your own file", PythonOptions, start, label=label)
