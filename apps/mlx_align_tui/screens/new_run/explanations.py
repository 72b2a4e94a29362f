"""What the choices of a new run mean, in plain words: the one place for it.

A key without words here is explained by its description in the configuration's schema.
"""

from __future__ import annotations

from rich.markup import escape

from mlx_align import methods

HELP = """\
# New run

Five steps, left to right; ctrl+n goes on and ctrl+b goes back, and nothing is final before Launch.
Every field shows what holds if you leave it empty, and where that comes from. F2 shows every key there is.

The badge at the top says whether the run fits in this machine's memory; it is counted anew, in a process of
its own, whenever something changes. A model that is not on this disk yet is fetched only when you plan it
with p or launch.

Launch starts an engine of its own: you may leave at any time.
"""
STEPS: dict[str, str] = {
    "model": (
        "The model that is taught. It is not changed: a small adapter is trained beside it.\n\n"
        "Take an instruct or chat version; it must have a chat template. A smaller model is quicker, and "
        "shows sooner whether your data teaches what you mean. Quantised models (4 bits) need least memory."
    ),
    "data": (
        "What it learns from: a .jsonl file, or a folder with train.jsonl and perhaps valid.jsonl.\n\n"
        "[b]pairs[/] prompt, chosen, rejected: orpo, dpo, simpo\n"
        "[b]answers[/] prompt, completion or messages: sft\n"
        "[b]questions[/] prompt and perhaps answer: grpo\n\n"
        "A few hundred good rows beat many thousand careless ones. v shows the rows as the model reads them."
    ),
    "plan": (
        "The memory that the run needs at its worst moment, counted from the model's files and your rows; "
        "predictions are within 15%.\n\n"
        "[b]tight[/] above 80% of what this machine has for it: close other programs.\n"
        "[b]will not fit[/] the engine refuses to start: u takes the cheapest change that helps."
    ),
    "launch": (
        "The run trains in a process of its own: you may leave this program, and come back to it later.\n\n"
        "The command does the very same in a shell; the file does it with `mlx-align METHOD -c FILE`."
    ),
}
"""Step -> what it is about; Textual markup."""

METHODS: dict[str, str] = {
    "orpo": "Teaches the better answer and away from the worse one at once. No reference model, so it is "
    "quick and needs least memory: a good first choice for pairs.",
    "dpo": "Widens the gap between better and worse answers, held to the model as it was at the start. The "
    "best known method; it needs one more pass over the data at the beginning.",
    "simpo": "Like dpo without a reference: answers are compared by their average token, so long ones have "
    "no advantage. Sensitive to the learning rate.",
    "sft": "Imitates your answers, word for word. For a new format or a new tone; it never sees what is "
    "wrong.",
    "grpo": "The model answers each question several times, and rewards say which answers were better. For "
    "what can be checked: numbers, formats, code. Slow, since it samples.",
}
PRESETS: dict[str, str] = {
    "none": "The method's and the model's own defaults.",
    "quick": "A first look in few steps: does this data teach this model anything?",
    "balanced": "The defaults, by name.",
    "thorough": "Three passes with a larger adapter, evaluated often; the best evaluation is kept.",
    "small-mac": "Small groups of short answers, for a Mac with little memory.",
    "r1": "DeepSeek-R1's own numbers, made for training all weights.",
}

_BETA_PAIR = (
    "How hard the preference pulls, against staying as it is.\n\n[b]too high[/] {high}\n[b]too low[/] {low}"
)
KEYS: dict[str, str] = {
    "orpo.method.beta": _BETA_PAIR.format(
        high="the chosen answers' loss rises while the margin grows: it learns to avoid rather than to say.",
        low="it only imitates the chosen answers, like sft; the margin hardly moves.",
    ),
    "dpo.method.beta": (
        "How strongly the model is held to what it was at the start.\n\n"
        "[b]too high[/] the margin hardly moves: nothing is learnt.\n"
        "[b]too low[/] rewards of both answers fall together and texts degrade."
    ),
    "simpo.method.beta": _BETA_PAIR.format(
        high="accuracy jumps to 100% and held-out loss rises: overfitting.",
        low="the margin stays below gamma and hardly moves.",
    ),
    "simpo.method.gamma": (
        "The margin that is aimed at between better and worse answers, usually about half of beta.\n\n"
        "[b]too high[/] it pushes on where answers are apart already, and texts degrade."
    ),
    "grpo.method.beta": (
        "How strongly the model is held to what it was at the start; 0 does without, which is usual now.\n\n"
        "[b]too high[/] the reward stays where it is."
    ),
    "grpo.method.group_size": (
        "Answers that are sampled for each question and compared with each other. More give a clearer signal "
        "and take longer.\n\n[b]too low[/] many groups have equal rewards, and teach nothing."
    ),
    "method.label_smoothing": "For pairs of which some are labelled the wrong way round: their share.",
    "optim.lr": (
        "How far each update moves the adapter: what matters most.\n\n"
        "[b]too high[/] the loss jumps, rewards run away, answers repeat themselves.\n"
        "[b]too low[/] curves stay flat. Try three times more or less."
    ),
    "train.epochs": (
        "Passes over the data; or set steps.\n\n"
        "[b]too many[/] training loss falls while held-out loss rises: it learns your rows by heart. One to "
        "three is usual."
    ),
    "train.steps": "Updates of the adapter in all, in place of epochs. A hundred show whether it learns.",
    "train.batch_size": (
        "Rows that are read at once. More give steadier updates and need more memory; accumulate gives the "
        "same steadiness without the memory.\n\n[b]too high[/] it will not fit."
    ),
    "train.accumulate": "Batches that make one update together: steadier, at no more memory, but slower.",
    "train.seed": "Another number gives another order of the rows, and another start.",
    "data.max_length": (
        "The longest row, prompt and answer, in tokens; memory grows with it. The lengths of your rows are "
        "under v on the data step.\n\n[b]too low[/] rows are left out."
    ),
    "adapter.rank": (
        "How much the adapter can hold. 8 to 32 are usual: more for new knowledge, less for a new manner.\n\n"
        "[b]too high[/] more memory, and it learns rows by heart sooner."
    ),
    "adapter.layers": "Adapt only the last layers: quicker and smaller, and it can learn less.",
    "adapter.modules": "Which of a layer's matrices are adapted; all is best for most data.",
    "adapter.dropout": "Hides a share of the adapter's input at random, against learning rows by heart.",
    "sampling.max_tokens": (
        "The longest answer that is sampled. Most of the time goes here.\n\n"
        "[b]too low[/] answers are cut before they come to the point, and get no reward."
    ),
    "sampling.temperature": "How freely answers are sampled: 1 is as the model means it, lower is tamer.",
    "eval.every": "Held-out rows are measured every so many steps: more often shows more and takes time.",
    "eval.patience": "Stops by itself when so many evaluations in a row were no better than the best.",
    "backend.checkpointing": "Computes a part twice to save memory; layers saves most, and is slower.",
    "rewards": (
        "What an answer is worth: a weight for each that counts, empty for those that do not. Their sum is "
        "what is learnt. Start with one."
    ),
}


def explain(key: str, method: str, description: str) -> str:
    """What a key means, as Textual markup.

    Args:
        key: dotted; "rewards.NAME" for a reward's weight, "method.name" and "preset" for those choices.
        method: the method that is chosen; some keys mean something else for each.
        description: the schema's, for keys without words here.
    """
    if key.startswith("rewards."):
        return f"{description}\n\n{KEYS['rewards']}"
    return KEYS.get(f"{method}.{key}") or KEYS.get(key) or _sentence(description)


def explain_method(name: str) -> str:
    """What a method is for, as Textual markup."""
    method = methods.get(name)
    return f"[b $accent]{method.title}[/]\n{METHODS.get(name, '')}\n\n[$quiet]{method.paper}[/]"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{escape(text[1:])}."
