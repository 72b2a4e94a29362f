"""A stranger's program as a script."""

from __future__ import annotations

import sys
import types


def main(source: str) -> None:
    """Run it with the usual stdin and stdout."""
    execute(source, "__main__")


def execute(source: str, name: str) -> dict[str, object]:
    """Run a program as the module of this name, and return what it has defined."""
    module = types.ModuleType(name)
    sys.modules[name] = module  # dataclasses and typing look for a class's module there
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)  # noqa: S102  (what the sandbox is for)
    return module.__dict__
