"""A chat template taken apart and put together in Go's language: the same text, or a refusal.

Where a Go toolchain is on the PATH, Go itself renders the templates; the golden template below was rendered
by it too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from chat_templates import BOS, EOS, chat

from mlx_align import embedded
from mlx_align.data import Message
from mlx_align.engine.tokenizer import load_tokenizer
from mlx_align.errors import UsageError
from mlx_align.export.chat_format import find_format, go_template

GOOD = ("chatml", "qwen2.5", "llama3", "gemma2", "gemma3", "mistral", "phi3", "plain")
WITH_SYSTEM = tuple(name for name in GOOD if name != "gemma2")

GOLDEN = """\
{{- $before := "start" }}
{{- if .System }}{{ "<|im_start|>system\\n" }}{{ .System }}{{ $before = "system" }}{{ end }}
{{- range $at, $message := .Messages }}
{{- if eq .Role "user" }}
{{- if eq $before "start" }}{{ "<|im_start|>user\\n" }}
{{- else if eq $before "system" }}{{ "<|im_end|>\\n<|im_start|>user\\n" }}
{{- else }}{{ "<|im_end|>\\n<|im_start|>user\\n" }}
{{- end }}{{ .Content }}{{ $before = "user" }}
{{- else if eq .Role "assistant" }}{{ "<|im_end|>\\n<|im_start|>assistant\\n" }}{{ .Content }}\
{{ $before = "assistant" }}
{{- end }}
{{- end }}
{{- if ne $before "assistant" }}{{ "<|im_end|>\\n<|im_start|>assistant\\n" }}{{ end }}"""

# What Ollama does with a template: its variables are .System and .Messages, a missing one is empty.
GO_PROGRAM = """\
package main

import (
	"encoding/json"
	"os"
	"text/template"
)

type message struct{ Role, Content string }

func main() {
	var cases []struct {
		Template, System string
		Messages         []message
	}
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	for _, c := range cases {
		t := template.Must(template.New("").Option("missingkey=zero").Parse(c.Template))
		values := map[string]any{"System": c.System, "Messages": c.Messages}
		if err := t.Execute(os.Stdout, values); err != nil {
			panic(err)
		}
		os.Stdout.Write([]byte{0})
	}
}
"""


def talk(*contents: str, system: str | None = None) -> list[Message]:
    roles = ("user", "assistant") * len(contents)
    turns = [Message(role=role, content=text) for role, text in zip(roles, contents, strict=False)]
    return turns if system is None else [Message(role="system", content=system), *turns]


def conversations(name: str) -> list[list[Message]]:
    systems = (None, 'Say "no".\n{{ .System }}') if name in WITH_SYSTEM else (None,)
    return [
        talk(*texts, system=system)
        for texts in (("Hello?",), ("a", "b", "c"), ("x\n\ny", "z`", "{{ 1 }}", "…", "5"))
        for system in systems
    ]


def expected(name: str, messages: list[Message]) -> str:
    """The model's own rendering, without the BOS that llama.cpp puts there itself."""
    text = chat(name).render(messages, add_generation_prompt=True, name=None)
    return text.removeprefix(BOS.get(name, ""))


@pytest.mark.parametrize("name", GOOD)
def test_it_renders_as_the_template_does(name: str) -> None:
    found = find_format(chat(name))
    for messages in conversations(name):
        assert found.render(messages) == expected(name, messages)


@pytest.mark.parametrize("name", GOOD)
def test_an_answer_ends_at_the_end_token(name: str) -> None:
    stops = find_format(chat(name)).stops
    assert stops[0] == EOS.get(name, "<|im_end|>")
    assert len(stops) == (2 if name == "plain" else 1)


def test_a_turn_that_ends_without_a_token_ends_where_the_next_begins() -> None:
    assert find_format(chat("plain")).stops[1] == "\u200b{{ user }}:"


def test_where_the_system_message_goes() -> None:
    places = {name: find_format(chat(name)).system for name in GOOD}
    assert places == dict.fromkeys(GOOD, "first") | {"gemma2": "none", "mistral": "last"}


def test_bos_is_left_to_llama_cpp_where_the_tokenizer_adds_it() -> None:
    for name in GOOD:
        text = go_template(find_format(chat(name)))
        assert not any(bos in text for bos in BOS.values())


def test_bos_stays_where_the_reader_adds_none() -> None:
    start = ("start", "user")
    assert find_format(chat("llama3"), adds_bos=False).between[start].startswith("<|begin_of_text|>")
    assert find_format(chat("llama3"), adds_bos=True) == find_format(chat("llama3"))
    assert find_format(chat("chatml"), adds_bos=True) == find_format(chat("chatml"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("numbered", "a conversation of 5 messages comes out otherwise"),
        ("late", "neither before the first nor before the last question"),
        ("forgetful", "not in it once each, in their order"),
    ],
)
def test_a_template_of_another_shape_is_refused(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        find_format(chat(name))
    assert "--template FILE" in str(caught.value.hint)


def test_the_golden_template() -> None:
    assert go_template(find_format(chat("chatml"))) == GOLDEN


def test_the_embedded_model_has_it_too() -> None:
    assert go_template(find_format(load_tokenizer(embedded.model_folder()))) == GOLDEN


def test_texts_are_quoted_as_go_wants_it() -> None:
    assert r"system\nYou are a \"helpful\" assistant.<|im_end|>" in go_template(find_format(chat("qwen2.5")))
    assert r'{{ "\U0000200b{{ user }}: " }}' in go_template(find_format(chat("plain")))


def test_texts_stand_in_a_modelfile_unharmed() -> None:
    """No bare blanks or braces, no triple quotes, nothing that Ollama's parser drops."""
    for name in GOOD:
        text = go_template(find_format(chat(name)))
        assert '"""' not in text
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert all(line.startswith("{{- ") for line in text.splitlines())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go toolchain")
def test_go_renders_as_the_template_does(tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = []
    wanted = []
    for name in GOOD:
        template = go_template(find_format(chat(name)))
        for messages in conversations(name):
            system = next((m["content"] for m in messages if m["role"] == "system"), "")
            given = [{"Role": m["role"], "Content": m["content"]} for m in messages]
            cases.append({"Template": template, "System": system, "Messages": given})
            wanted.append(expected(name, messages))
    (tmp_path / "main.go").write_text(GO_PROGRAM)
    command = ["go", "run", str(tmp_path / "main.go")]
    done = subprocess.run(command, input=json.dumps(cases).encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split("\0") == [*wanted, ""]
