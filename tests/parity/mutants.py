"""`python -m tests.parity.mutants`: pytest again and again in one process, on the sources as they then are.

A line on stdin is a JSON list of pytest's arguments, and a line on stdout says how it ended. The frameworks,
which take longest to load, are loaded once.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest


def forget(project: Path) -> None:
    """Let everything that lies in a folder be imported anew."""
    inside = [name for name, module in sys.modules.items() if name != "__main__" and lies(module, project)]
    for name in inside:
        del sys.modules[name]


def lies(module: ModuleType, folder: Path) -> bool:
    """Whether a module, or a package without a file of its own, is in a folder."""
    facts = vars(module)  # torch has modules that make up every attribute they are asked for
    places = [facts.get("__file__"), *facts.get("__path__", ())]
    return any(place and Path(place).is_relative_to(folder) for place in places)


def main() -> None:
    project = Path.cwd()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        for line in sys.stdin:
            forget(project)
            said = StringIO()
            with redirect_stdout(said):
                code = pytest.main(json.loads(line))
            print(json.dumps({"code": int(code), "said": said.getvalue()}), file=replies, flush=True)


if __name__ == "__main__":
    main()
