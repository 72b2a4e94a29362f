"""What the keys of a run and the rewards mean: what they do, and what too high looks like. Textual markup."""

from __future__ import annotations

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
    "orpo.method.nll": (
        "Whether only the answer is imitated, as in the paper, or the prompt too, as TRL does."
    ),
    "dpo.method.loss_type": (
        "[b]sigmoid[/] is the usual one. [b]ipo[/] aims at a fixed gap and overfits less on clean labels. "
        "[b]hinge[/] stops once a pair is far enough apart."
    ),
    "grpo.method.loss_type": (
        "What an answer weighs. [b]dapo[/], the default, counts tokens; [b]grpo[/] counts answers, which "
        "makes "
        "long wrong ones cheap; [b]dr_grpo[/] also leaves out the division by the spread; [b]gspo[/] steers "
        "whole answers."
    ),
    "grpo.method.epsilon": (
        "How far one rollout may move a token's probability down or up before it stops counting.\n\n"
        "[b]too high[/] single updates go too far, and the reward collapses."
    ),
    "grpo.method.epsilon_high": (
        "The same bound upwards only; a little more room lets rare good tokens grow.\n\n"
        "[b]too high[/] entropy falls quickly, and all answers become alike."
    ),
    "grpo.method.delta": (
        "A last bound for tokens of bad answers that have become much likelier; 0 is without."
    ),
    "grpo.method.unbiased_kl": "Measures the distance to the start without bias; only with a beta above 0.",
    "grpo.method.scale_rewards": (
        "Whether differences within a group are made equally large in every group. [b]none[/] keeps the "
        "reward's own scale: groups that are nearly equal then count less."
    ),
    "grpo.method.mask_truncated": "Learns nothing from answers that were cut off at the longest length.",
    "grpo.method.num_iterations": (
        "How often the same sampled answers are trained on: saves sampling.\n\n"
        "[b]too high[/] it learns from answers that it would no longer give; clipping rises."
    ),
    "grpo.method.length": "The length that dr_grpo divides by, and at which an overlong answer costs most.",
    "grpo.method.overlong_buffer": (
        "An answer that ends within so many tokens of the longest length loses up to 1 point: against "
        "rambling."
        "\n\n[b]too high[/] answers become shorter than the task needs."
    ),
    "grpo.method.refill_limit": (
        "Groups in which all answers are worth the same teach nothing; so many times other questions are "
        "sampled in their place. Each time costs as much as a rollout."
    ),
    "model.revision": "A commit, tag or branch of the model on the hub; empty is the newest.",
    "data.too_long": (
        "What happens to rows above max_length: left out ([b]drop[/]), their prompt's beginning cut away, or "
        "the run refused."
    ),
    "data.valid_fraction": (
        "The share of rows that is kept for measuring, where there is no valid.jsonl.\n\n"
        "[b]too high[/] too little is left to learn from. [b]too low[/] the measures are noise."
    ),
    "adapter.type": (
        "[b]lora[/] is quick. [b]dora[/] learns direction and size apart: often a little better, slower."
    ),
    "adapter.scale": (
        "How strongly the adapter acts; a change here is like a change of the rate.\n\n"
        "[b]too high[/] the loss jumps from the first updates on."
    ),
    "adapter.start": "Goes on from an adapter that you have: its folder, such as a run's adapter/.",
    "optim.name": (
        "How a gradient becomes an update. [b]adamw[/] suits nearly all; the others need other rates."
    ),
    "optim.weight_decay": "Pulls the adapter back to nothing, against learning by heart. 0 to 0.1 is usual.",
    "optim.schedule": (
        "How the rate falls towards the end: [b]cosine[/] slowly first, [b]constant[/] not at all."
    ),
    "optim.warmup": "The share of the run in which the rate rises: a soft start. 0.03 to 0.1 is usual.",
    "optim.min_lr": "Where the falling rate ends, as a share of it. 0 is usual.",
    "optim.max_grad_norm": (
        "No single batch may push harder than this; 0 is without a limit.\n\n[b]too high[/] one odd row can "
        "spoil the adapter: the loss has spikes. [b]too low[/] all updates are small."
    ),
    "train.tokens_per_batch": (
        "In place of batch_size: as many rows of like length as fit into so many tokens. Quicker where "
        "lengths differ.\n\n[b]too high[/] it will not fit."
    ),
    "train.branches_at_once": (
        "Reads so many answers of a group at once, to save memory; the result is the same, only slower."
    ),
    "sampling.top_p": "Samples only from the likeliest tokens that together reach this; 1 is from all.",
    "sampling.top_k": "Samples only from so many likeliest tokens; 0 is from all.",
    "sampling.min_p": "Leaves out tokens that are much less likely than the likeliest; 0 leaves out none.",
    "sampling.repetition_penalty": (
        "Makes words that were there already less likely; 1 is off.\n\n[b]too high[/] answers avoid words "
        "that they need."
    ),
    "sampling.stop": 'Texts at which an answer ends, as ["\\\\n\\\\n"]; the model\'s own end always counts.',
    "rollout.updates": (
        "Updates that are made of one round of sampling. More make sampling cheaper.\n\n"
        "[b]too high[/] the last of them learn from answers that are no longer its own."
    ),
    "eval.rows": "Held-out rows that are measured each time: more are steadier, and take longer.",
    "eval.samples": "Held-out prompts that are answered at each evaluation, so that you can read along.",
    "eval.max_tokens": "The longest of these answers, in tokens.",
    "eval.metric": "What the best checkpoint is chosen by; it is what you get at the end.",
    "eval.pass_k": "Tries each held-out question so many times, and says how often one of them is right.",
    "checkpoint.every": (
        "After so many updates all is saved: that much is lost at most if the machine goes down."
    ),
    "checkpoint.keep": "So many of the newest stay on the disk; the best always does.",
    "guard.nonfinite_limit": "Ends the run after so many updates in a row whose loss is no number.",
    "guard.memory": "[b]warn[/] starts a run that will probably not fit: the machine may stand still.",
    "backend.name": (
        "[b]mlx[/] is what this program is made for; [b]torch[/] trains the same on NVIDIA or a CPU."
    ),
    "backend.device": "[b]auto[/] takes the GPU where there is one.",
    "backend.dtype": "How exactly numbers are kept: 16 bits need half the memory of float32.",
    "backend.quantize": (
        "[b]nf4[/] keeps the model in 4 bits, on NVIDIA only; for mlx choose a quantised model."
    ),
    "backend.compile": "Traces the step once and runs it quicker; off helps to find out what is slow.",
    "runs.cache": "Where what later runs can use again is kept; you may delete it at any time.",
    "rewards": (
        "[b]weight[/] empty: not used. The weighted sum is what is learnt: start with one at 1, and add "
        "others "
        "with less.\n[b]too high[/] for a side aim (format, length): it is met, and the answers are wrong."
    ),
}
REWARDS: dict[str, str] = {
    "numeric": "1 for the right number, however it is written. Rows need an answer.",
    "exact": "1 for the right words, small differences in spelling aside. Rows need an answer.",
    "regex": "1 where a pattern matches the answer.",
    "format": "1 for blocks in tags, one after the other, such as <think> and <answer>.",
    "json": "1 for valid JSON, by a schema if you give one.",
    "length": "1 at the length that you want, less the further it is away.",
    "language": "1 for an answer in the language that you want.",
    "refusal": "1 for answering; or for refusing, where that is wanted.",
    "keywords": "The share of wanted words that are there, 0 with an unwanted one. Name some of either.",
    "sympy": "1 for a mathematically equal expression. Rows need an answer; it needs an extra library.",
    "python": (
        "What a function of your own returns: a number for each answer. It gets the answer's text, and by "
        "name prompt, answer, row, tokens and truncated. It runs in a process of its own. <<new.find>> on "
        "function finds the file."
    ),
    "code": "The share of the row's unit tests that the program in the answer passes, in a sandbox.",
    "judge": (
        "A model reads each answer and gives points by your rubric. Slow, and a small model judges badly: "
        "try "
        "it on answers whose worth you know."
    ),
}
"""Reward -> what it is; the registry's title where it has no words here."""
