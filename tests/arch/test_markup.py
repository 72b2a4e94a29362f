"""What the terminal UI did not write itself never becomes markup: that goes through `plain`, everywhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "apps" / "mlx_align_tui"
FILES = [str(file.relative_to(FOLDER)) for file in sorted(FOLDER.rglob("*.py"))]
TAG = re.compile(r"\[(/|[$@#!a-z])")
"""What begins a tag of Textual's markup."""
FIGURE = re.compile(r"[\d.,]+[%fgd]?|,")
"""A format that only a number takes."""
SAFE = {"plain", "plural", "size", "duration", "percent", "len", "sum", "badge", "fit_badge", "_sentence"}
"""Functions that return figures, or markup that is made here of what is safe."""
OURS: dict[str, set[str]] = {
    "screens/chat/screen.py": {"' · '.join(words)"},  # of steps and figures
    "screens/data.py": {"lengths", "self._method", "message['doing']"},
    "screens/data_parts/mapping.py": {"', '.join(lacking)"},  # our names of columns
    "screens/doctor/rebinding.py": {"self._key.name", "other.name"},
    "screens/home.py": {"self._counts"},
    "screens/export/screen.py": {"counts['done']", "counts['failed']", "event.spec.label"},
    "screens/export/texts.py": {"name"},
    "screens/new_run/explanations.py": {"method.title", "method.paper"},
    "screens/new_run/method.py": {"spec.key", "meaning", "explanations.PRESETS[draft.preset or NONE]"},
    "screens/new_run/texts.py": {"method.name", "name", "value"},
    "screens/viewing.py": {"' · '.join(words)"},
    "widgets/fit_badge.py": {"verdict"},
}
"""File -> what stands in its markup though it cannot be followed: words and figures of this project."""


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse((FOLDER / file).read_text(encoding="utf-8"))


class Scope:
    """A function, and what its names were given.

    Args:
        body: the function. Of its arguments, and of what it goes through one by one, nothing is known.
        ours: expressions that are known to be safe.
    """

    def __init__(self, body: ast.AST, ours: set[str]) -> None:
        self.body, self._ours = body, ours
        self._given: dict[str, list[ast.expr]] = {}
        self._asked: set[str] = set()
        self._told: set[str] = set()
        for node in ast.walk(body):
            match node:
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        self._take(target, value)
                case ast.AugAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value):
                    self._take(target, value)
                case ast.For(target=target) | ast.comprehension(target=target):
                    self._told |= {one.id for one in ast.walk(target) if isinstance(one, ast.Name)}
                case ast.arg(arg=name):
                    self._told.add(name)

    def _take(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._given.setdefault(target.id, []).append(value)
        elif isinstance(target, ast.Tuple):
            values = value.elts if isinstance(value, ast.Tuple) else [value] * len(target.elts)
            for one, its in zip(target.elts, values, strict=True):
                self._take(one, its)

    def foreign(self) -> Iterator[str]:
        """What stands in markup and may have been written by somebody else."""
        for text in ast.walk(self.body):
            if isinstance(text, ast.JoinedStr) and TAG.search(_constants(text)):
                parts = [part for part in text.values if isinstance(part, ast.FormattedValue)]
                yield from (ast.unparse(part.value) for part in parts if not self.safe(part))

    def safe(self, value: ast.expr) -> bool:
        """Whether nothing foreign can be in it."""
        if ast.unparse(value) in self._ours:
            return True
        match value:
            case ast.Constant():
                return True
            case ast.Name(id=name):
                return name.isupper() or self._given_safely(name)
            case ast.FormattedValue(value=inner, format_spec=form):
                return self.safe(inner) or bool(form and FIGURE.fullmatch(ast.unparse(form)[2:-1]))
            case ast.Call(func=ast.Name(id=name)):
                return name in SAFE
            case ast.Call(func=ast.Attribute(attr="join"), args=[inner]):
                return self.safe(inner)
            case ast.BinOp(op=ast.Mult(), left=ast.Constant()):
                return True
            case ast.JoinedStr(values=parts) | ast.List(elts=parts) | ast.BoolOp(values=parts):
                return all(map(self.safe, parts))
            case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, right=other):
                return self.safe(one) and self.safe(other)
            case (
                ast.Call(func=ast.Attribute(value=inner, attr="get"))
                | ast.Subscript(value=inner)
                | ast.Attribute(value=inner)
                | ast.Starred(value=inner)
            ):
                return self.safe(inner)
        return False

    def _given_safely(self, name: str) -> bool:
        if name in self._asked:  # it is given itself, and more
            return True
        self._asked.add(name)
        known = name in self._given and name not in self._told
        good = known and all(map(self.safe, self._given[name]))
        self._asked.remove(name)
        return good


def _constants(text: ast.JoinedStr) -> str:
    return "".join(str(part.value) for part in text.values if isinstance(part, ast.Constant))


def foreign(tree: ast.Module, ours: set[str]) -> set[str]:
    """What stands in a module's markup and may have been written by somebody else."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {words for node in functions for words in Scope(node, ours).foreign()}


def _constant(text: ast.expr) -> bool:
    match text:
        case ast.Constant() | ast.Call(func=ast.Name(id="keyed"), args=[_, ast.Constant()]):
            return True
    return False


def notices(tree: ast.Module) -> list[str]:
    """Notices that may be read as markup, and are more than a constant and the keys that it names."""
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "notify"
        and not _constant(node.args[0])
        and not any(word.arg == "markup" and ast.unparse(word.value) == "False" for word in node.keywords)
    ]


def test_foreign_text_in_markup_is_plain() -> None:
    """Give it to `plain`; where it is no foreign text and that cannot be seen, name it in OURS."""
    found = {file: foreign(_tree(file), OURS.get(file, set())) for file in FILES}
    assert not {file: words for file, words in found.items() if words}


def test_what_is_said_to_be_ours_is_there() -> None:
    needed = {file: foreign(_tree(file), set()) for file in OURS}
    assert not {file: ours for file, ours in OURS.items() if not needed[file]}


def test_notices_are_no_markup() -> None:
    assert not {file: found for file in FILES if (found := notices(_tree(file)))}


def test_nobody_elses_escape_is_used() -> None:
    """Rich's is made for another markup, and Textual's leaves alone what has no end."""
    modules = {(file, node.module) for file in FILES for node in ast.walk(_tree(file))
               if isinstance(node, ast.ImportFrom)}  # fmt: skip
    assert not {(file, module) for file, module in modules if module in ("rich.markup", "textual.markup")}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("f'[b]{name}[/]'", {"name"}),
        ("f'[b]{plain(name)}[/] {count:,}'", set()),
        ("f'[$quiet]{run.path}[/]'", {"run.path"}),
        ("f'{name} is no markup'", set()),
        ("(words := name, f'[b]{words}[/]')", {"words"}),
        ("(name := 'x', f'[b]{name}[/]')", {"name"}),
        ("[f'[b]{one}[/]' for one in name if (one := 'x')]", {"one"}),
        ("(words := f'{plain(name)}', words := words + 'x', f'[b]{words}[/]')", set()),
    ],
)
def test_what_is_foreign_is_found(line: str, found: set[str]) -> None:
    assert foreign(ast.parse(f"def f(name): return {line}"), set()) == found


def test_a_notice_that_is_markup_is_found() -> None:
    assert notices(ast.parse("self.notify(f'{run.name} stops')"))
    assert not notices(ast.parse("self.notify(f'{run.name} stops', markup=False)"))
    assert not notices(ast.parse("self.notify('it stops')"))
    assert not notices(ast.parse("self.notify(keyed(self, '<<runs.stop>> stops it'))"))
