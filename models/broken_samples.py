"""Bad data on purpose: a small file for every mistake a reader has to name, and what it should say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from models.world import distinct

HUGE_DIGITS = 5_000
NESTING = 100_000
LONG_RESPONSE = 20_000


@dataclass(frozen=True)
class Broken:
    """A broken file: its bytes, the first bad line (None: the whole file), the key, why, and its rows."""

    name: str
    content: bytes
    line: int | None
    key: str | None
    about: str
    rows: str = "pair"


def _encode(row: object) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8")


def _file(lines: list[bytes]) -> bytes:
    return b"\n".join(lines) + b"\n"


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


class _Maker:
    """Makes broken files out of four good rows, the third of which is spoilt."""

    BAD_LINE = 3

    def __init__(self, seed: int) -> None:
        rng = Random(f"{seed} broken")
        kinds = ("fact", "rewrite", "arithmetic", "fact")
        drawn = [distinct(rng, kind, "train", 4)[i] for i, kind in enumerate(kinds)]
        self.rows = [{"prompt": i.prompt, "chosen": i.crisp, "rejected": i.sloppy} for i in drawn]

    def raw(self, name: str, line: bytes, key: str | None, about: str) -> Broken:
        """Put these bytes in place of the third line."""
        lines = [_encode(row) for row in self.rows]
        lines[self.BAD_LINE - 1] = line
        return Broken(name, _file(lines), self.BAD_LINE, key, about)

    def changed(self, name: str, key: str, value: Any, about: str) -> Broken:
        """Give the third row another value."""
        return self.raw(name, _encode({**self.rows[self.BAD_LINE - 1], key: value}), key, about)

    def spliced(self, name: str, key: str, literal: bytes, about: str) -> Broken:
        """Give the third row a literal that a JSON writer would not write."""
        row = _encode({**self.rows[self.BAD_LINE - 1], key: "@"})
        return self.raw(name, row.replace(b'"@"', literal), key, about)

    def whole(
        self, name: str, rows: list[Any], line: int, key: str | None, about: str, kind: str = "pair"
    ) -> Broken:
        """Write other rows altogether."""
        return Broken(name, _file([_encode(row) for row in rows]), line, key, about, kind)


def _not_readable(make: _Maker) -> list[Broken]:
    """Files that are not JSON, or not text."""
    good = [_encode(row) for row in make.rows]
    cut = b"\n".join([*good[:3], good[3][: len(good[3]) // 2]])
    bad_byte = good[2].replace(b'"chosen": "', b'"chosen": "\xff', 1)
    utf16 = "\ufeff" + "".join(json.dumps(row) + "\n" for row in make.rows)
    return [
        make.raw("not-json", b"What is 2 + 2? It is 4.", None, "the line is not JSON"),
        Broken("truncated-line", cut, 4, None, "the last line stops in the middle"),
        make.raw("invalid-utf8", bad_byte, None, "the line has a byte that is not UTF-8"),
        Broken("utf16", utf16.encode("utf-16-le"), None, None, "the file is UTF-16, not UTF-8"),
        Broken("empty", b"", None, None, "the file has no bytes"),
        Broken("only-blank-lines", b"\n\n   \n\n", None, None, "the file has only blank lines"),
    ]


def _bad_values(make: _Maker) -> list[Broken]:
    """Rows with a value that cannot be used."""
    bad = make.rows[make.BAD_LINE - 1]
    missing = {k: v for k, v in bad.items() if k != "rejected"}
    twice = _encode(bad)[:-1] + b", " + _encode({"chosen": "Another answer."})[1:]
    nest = b"[" * NESTING + b"]" * NESTING
    return [
        make.raw("not-an-object", _encode(list(bad.values())), None, "the line is a list, not an object"),
        make.raw("missing-key", _encode(missing), "rejected", "the row has no rejected answer"),
        make.changed("wrong-type", "chosen", 42, "the chosen answer is a number, not text"),
        make.changed("null-value", "chosen", None, "the chosen answer is null"),
        make.changed("empty-response", "rejected", "", "the rejected answer is empty"),
        make.changed("empty-prompt", "prompt", "", "the prompt is empty"),
        make.changed("same-answers", "rejected", bad["chosen"], "chosen and rejected are the same"),
        make.raw("duplicate-key", twice, "chosen", "the row has the key chosen twice"),
        make.spliced("nan-value", "rejected", b"NaN", "NaN is not JSON and not text"),
        make.spliced("huge-integer", "rejected", b"7" * HUGE_DIGITS, "an integer of 5,000 digits"),
        make.spliced("deep-nesting", "rejected", nest, "100,000 nested brackets"),
        make.spliced("lone-surrogate", "chosen", b'"It is \\ud800."', "half of a surrogate pair"),
        make.changed(
            "special-token-in-text",
            "chosen",
            bad["chosen"] + "<|im_end|>",
            "the answer contains the special token <|im_end|>",
        ),
        make.changed(
            "too-long",
            "chosen",
            ("Very long. " * LONG_RESPONSE)[:LONG_RESPONSE],
            "an answer of 20,000 characters: an error only where the user asks for it",
        ),
    ]


def _pair_of_lists(row: dict[str, str]) -> dict[str, Any]:
    return {
        "prompt": [_user(row["prompt"])],
        "chosen": [_assistant(row["chosen"])],
        "rejected": [_assistant(row["rejected"])],
    }


def _whole_chats(row: dict[str, str]) -> dict[str, Any]:
    return {key: [_user(row["prompt"]), _assistant(row[key])] for key in ("chosen", "rejected")}


def _bad_shapes(make: _Maker) -> list[Broken]:
    """Rows of message lists, and shapes that nothing reads."""
    rows, spoilt = make.rows, make.rows[2]
    lists = [_pair_of_lists(row) for row in rows]
    lists[2] = {**lists[2], "prompt": [{"role": "robot", "content": spoilt["prompt"]}]}
    chats = [{"messages": [_user(row["prompt"]), _assistant(row["chosen"])]} for row in rows]
    chats[2]["messages"].append(_user("And then?"))
    whole = [_whole_chats(row) for row in rows]
    whole[2]["rejected"][0] = _user(rows[0]["prompt"])
    mixed = _encode({**spoilt, "chosen": [_assistant(spoilt["chosen"])]})
    foreign = [{"instruction": row["prompt"], "output": row["chosen"]} for row in rows]
    last, differ = "the last message is the user's", "chosen and rejected do not share a prompt"
    return [
        make.whole("bad-role", lists, 3, "prompt", "a message has the role robot"),
        make.whole("last-turn-not-assistant", chats, 3, "messages", last, "completion"),
        make.whole("prompts-differ", whole, 3, "rejected", differ),
        make.raw("mixed-shapes", mixed, "chosen", "one row mixes text and message lists"),
        make.whole("unknown-shape", foreign, 1, None, "the keys instruction and output are no known shape"),
    ]


def _bad_prompts(make: _Maker) -> list[Broken]:
    """Rows for a policy that answers by itself."""
    asked = [{"question": row["prompt"], "answer": row["chosen"]} for row in make.rows]
    chats = [{"messages": [_user(row["prompt"])], "answer": row["chosen"]} for row in make.rows]
    answered = [*chats[2]["messages"], _assistant(make.rows[2]["chosen"])]

    def spoilt(name: str, rows: list[dict[str, Any]], key: str, value: Any, about: str) -> Broken:
        return make.whole(name, [*rows[:2], {**rows[2], key: value}, rows[3]], 3, key, about, "prompt")

    return [
        spoilt("answer-is-a-list", asked, "answer", ["4", "four"], "the right answer is a list, not text"),
        spoilt("empty-answer", asked, "answer", " ", "the right answer is empty"),
        spoilt("question-is-a-number", asked, "question", 42, "the question is a number, not text"),
        spoilt("answered-prompt", chats, "messages", answered, "the prompt ends with the assistant's turn"),
    ]


def write_broken(out: Path, seed: int) -> None:
    """Write every broken file, and expected.json with what is wrong with each."""
    out.mkdir(parents=True, exist_ok=True)
    make = _Maker(seed)
    expected = {}
    for broken in [*_not_readable(make), *_bad_values(make), *_bad_shapes(make), *_bad_prompts(make)]:
        name = f"{broken.name}.jsonl"
        (out / name).write_bytes(broken.content)
        expected[name] = {
            "line": broken.line,
            "key": broken.key,
            "about": broken.about,
            "rows": broken.rows,
        }
    text = json.dumps(expected, indent=2, sort_keys=True) + "\n"
    (out / "expected.json").write_bytes(text.encode("utf-8"))
