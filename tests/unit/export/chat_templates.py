"""Chat templates in the manner of well-known families, each with a tiny byte-level tokenizer."""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mlx_align.data import ChatTokenizer, wrap_tokenizer

CHATML = """\
{%- for m in messages -%}
{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
# Like Qwen2.5: who says nothing about the system gets one.
QWEN25 = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are a \"helpful\" assistant.<|im_end|>\\n' -}}{%- endif -%}\n" + CHATML
)
LLAMA3 = """\
{{- bos_token -}}
{%- for m in messages -%}
{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""
_GEMMA_TURNS = """\
{%- for m in turns -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{- raise_exception('alternate') -}}{%- endif -%}
{%- set role = 'model' if m['role'] == 'assistant' else 'user' -%}
{{- '<start_of_turn>' + role + '\\n' + (opening if loop.first else '') + m['content'] | trim -}}
{{- '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""
# Like Gemma 2, which has no system message, and Gemma 3, which begins the first question with it.
GEMMA2 = "{{- bos_token -}}{%- set turns = messages -%}{%- set opening = '' -%}" + _GEMMA_TURNS
GEMMA3 = (
    "{{- bos_token -}}\n{%- if messages[0]['role'] == 'system' -%}\n"
    "{%- set opening = messages[0]['content'] + '\\n\\n' -%}{%- set turns = messages[1:] -%}\n"
    "{%- else -%}{%- set opening = '' -%}{%- set turns = messages -%}{%- endif -%}\n" + _GEMMA_TURNS
)
# Like Mistral 7B v0.3: the system message begins the last question.
MISTRAL = """\
{%- if messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}
{%- else -%}{%- set turns = messages -%}{%- endif -%}
{{- bos_token -}}
{%- for m in turns -%}
{%- if m['role'] == 'user' -%}
{%- if loop.last and system is defined -%}{{- '[INST] ' + system + '\\n\\n' + m['content'] + '[/INST]' -}}
{%- else -%}{{- '[INST] ' + m['content'] + '[/INST]' -}}{%- endif -%}
{%- else -%}{{- ' ' + m['content'] | trim + eos_token -}}{%- endif -%}
{%- endfor -%}
"""
PHI3 = """\
{%- for m in messages -%}
{{- '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}
"""
# No end-of-turn token at all, and a text that is nothing in Go's language but something in Jinja's.
PLAIN = """\
{%- for m in messages -%}{{- '\\u200b{{ ' + m['role'] + ' }}: ' + m['content'] + '\\n' -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\u200b{{ assistant }}:' -}}{%- endif -%}
"""
# Every turn has its number, so what stands between two messages depends on more than their roles.
NUMBERED = """\
{%- for m in messages -%}{{- loop.index ~ m['role'] + ': ' + m['content'] + '\\n' -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'assistant:' -}}{%- endif -%}
"""
LATE = "{%- for m in messages | rejectattr('role', 'eq', 'system') -%}" + PHI3.partition("-%}\n")[2].replace(
    "{%- endfor -%}", "{%- endfor -%}{{- messages[0]['content'] if messages[0]['role'] == 'system' -}}", 1
)
FORGETFUL = "{{- messages[-1]['content'] -}}"

TEMPLATES = {
    "chatml": CHATML,
    "qwen2.5": QWEN25,
    "llama3": LLAMA3,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "mistral": MISTRAL,
    "phi3": PHI3,
    "plain": PLAIN,
    "numbered": NUMBERED,
    "late": LATE,
    "forgetful": FORGETFUL,
}
BOS = {"llama3": "<|begin_of_text|>", "gemma2": "<bos>", "gemma3": "<bos>", "mistral": "<s>"}
EOS = {
    "llama3": "<|eot_id|>",
    "gemma2": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "mistral": "</s>",
    "phi3": "<|end|>",
    "plain": "<|endoftext|>",
}
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|eot_id|>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<s>", "</s>"),
    *("[INST]", "[/INST]", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
)


@cache
def chat(name: str) -> ChatTokenizer:
    """A tokenizer with the template of that name; it puts BOS before a text where the family's does."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    bos = BOS.get(name)
    if bos:
        begin = (bos, core.token_to_id(bos))
        core.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[begin])
    eos = EOS.get(name, "<|im_end|>")
    return wrap_tokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=core, bos_token=bos, eos_token=eos, chat_template=TEMPLATES[name]
        )
    )
