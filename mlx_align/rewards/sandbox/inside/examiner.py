"""The examiner's side: the row's tests, run in a sandbox of their own, apart from the candidate.

The tests run here as they are written, with this process's own builtins. A name that only the candidate
knows becomes a `Remote`: a call of it is carried out over there, and what comes back is plain data, or
another `Remote`. Comparisons happen here, so no `__eq__` of the candidate's, no patched builtin and no exit
can decide one.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from . import wire


class CandidateError(Exception):
    """The candidate raised an exception of its own, or ended."""


class UnusableTestError(Exception):
    """The test itself is at fault: no candidate could pass it here."""


def main(job: str) -> None:
    """Run the tests of a job and write one line about each to stderr.

    A job is {"setup": text, "tests": [text], "entry_point": name or null}; a line is [verdict, reason], the
    verdict being "passed", "failed" or "unusable".
    """
    verdicts = os.fdopen(os.dup(2), "w", encoding="utf-8")
    candidate = Candidate(*wire.take_standard_streams())
    candidate.greet()
    tasks: dict[str, Any] = json.loads(job)
    try:
        sources = [tasks["setup"], *tasks["tests"]]
        trees = [_parse(source) for source in sources]
    except UnusableTestError as error:
        print(json.dumps(["unusable", str(error)]), file=verdicts, flush=True)
        return
    scope: dict[str, Any] = {"__name__": "tests"}
    modules, strangers = _unknown_names(trees)
    scope.update({name: __import__(name) for name in modules})
    scope.update({name: Remote(candidate, name) for name in strangers | {tasks["entry_point"]} - {None}})
    setup = _judge(trees[0], scope)
    for tree in trees[1:]:
        verdict = _judge(tree, scope) if setup[0] == "passed" else setup
        print(json.dumps(verdict), file=verdicts, flush=True)


class Candidate:
    """The line to the candidate."""

    def __init__(self, replies: BinaryIO, requests: BinaryIO) -> None:
        self.replies = replies
        self.requests = requests
        self.gone = False
        self.known: dict[int, Remote] = {}

    def greet(self) -> None:
        """Wait until it is there."""
        try:
            wire.receive(self.replies)
        except wire.WireError:
            self.gone = True

    def ask(self, what: str, *args: Any, **kwargs: Any) -> Any:
        """Have something done over there, and return or raise what came of it."""
        message = {"do": what, "args": wire.encode(args, _refer), "kwargs": wire.encode(kwargs, _refer)}
        try:
            reply = self._exchange(message)
            if "value" in reply:
                return wire.decode(reply["value"], self._meet)
            kinds, text = [str(kind) for kind in reply["error"]], str(reply["message"])
        except (wire.WireError, KeyError, TypeError, RecursionError) as error:
            self.gone = True  # requests and replies may no longer belong together
            raise CandidateError(str(error)) from None
        _raise(kinds, text)

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        if self.gone:
            raise wire.WireError("the other side is gone")
        wire.send(self.requests, message)
        return wire.receive(self.replies)

    def _meet(self, number: Any) -> Remote:
        if not isinstance(number, int):
            raise TypeError("not a reference")
        return self.known.setdefault(number, Remote(self, number))


class Remote:
    """An object of the candidate's. Two are equal only if they are one: the candidate has no say in it."""

    def __init__(self, candidate: Candidate, reference: str | int) -> None:
        self._candidate = candidate
        self._reference = reference

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the candidate's function or class returns."""
        return self._candidate.ask("call", self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own questions about this object, not the test's
            raise AttributeError(name)
        return self._candidate.ask("getattr", self, name)

    def __getitem__(self, key: Any) -> Any:
        return self._candidate.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._candidate.ask("setitem", self, key, value)

    def __contains__(self, item: Any) -> bool:
        return self._candidate.ask("contains", self, item) is True

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Remote) and self._candidate.ask("isinstance", instance, self) is True

    def __bool__(self) -> bool:
        return self._candidate.ask("bool", self) is True

    def __len__(self) -> int:
        return int(self._candidate.ask("len", self))

    def __iter__(self) -> Iterator[Any]:
        iterator = self._candidate.ask("iter", self)
        while True:
            try:
                item = self._candidate.ask("next", iterator)
            except StopIteration:
                return
            yield item

    def __next__(self) -> Any:
        return self._candidate.ask("next", self)

    def __str__(self) -> str:
        return str(self._candidate.ask("str", self))

    def __repr__(self) -> str:
        return str(self._candidate.ask("repr", self))


def _refer(value: Any) -> str | int:
    if isinstance(value, Remote):
        return value._reference
    raise UnusableTestError(f"the test hands over a {type(value).__name__}, which cannot leave its process")


def _raise(kinds: list[str], message: str) -> NoReturn:
    """Raise the first of these exceptions that Python knows, or a CandidateError."""
    for kind in kinds:
        error = getattr(builtins, kind, None)
        if isinstance(error, type) and issubclass(error, Exception) and error is not Exception:
            try:
                made = error(message)
            except TypeError:  # UnicodeDecodeError wants five arguments
                continue
            raise made
    raise CandidateError(f"{kinds[0] if kinds else 'error'}: {message}")


def _judge(tree: ast.Module, scope: dict[str, Any]) -> tuple[str, str]:
    try:
        exec(compile(tree, "tests.py", "exec"), scope)  # noqa: S102  (the row's own tests, in their sandbox)
    except UnusableTestError as error:
        return "unusable", str(error)
    except BaseException as error:
        return "failed", f"{type(error).__name__}: {error}"[:200]
    return "passed", ""


def _parse(source: str) -> ast.Module:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise UnusableTestError(f"the test is not Python: {error}") from None
    for name in _imports(tree):
        if name not in sys.stdlib_module_names:
            raise UnusableTestError(f"the test imports '{name}'; the sandbox has only Python's own library")
    return tree


def _imports(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def _unknown_names(trees: list[ast.Module]) -> tuple[set[str], set[str]]:
    """Names that the tests use but do not define, and that are not Python's: (modules, the candidate's).

    Tests are written as if they stood below the solution, so a module that the solution imports is taken
    from Python here as well.
    """
    used: set[str] = set()
    dotted: set[str] = set()
    own = {*dir(builtins), "__name__"}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else own).add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            dotted.add(node.value.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.alias):
            own.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            own.add(node.name)
    modules = (used - own) & dotted & sys.stdlib_module_names
    return modules, used - own - modules
