"""Small rewriting tasks: one word or a few words in, the changed form out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from models.facts import Topic


def _words(text: str) -> list[str]:
    return text.split()


def _forms(text: str) -> dict[str, str]:
    """Read "word=form word=form" into a dict."""
    return dict(pair.split("=") for pair in text.split())


NOUNS = _words(
    "cat dog hen cow pig fox owl bee ant cup hat pen book tree house chair table door window lamp "
    "apple pear plum lemon bread cheese river stone cloud star moon boat train car road bridge "
    "garden flower king queen ball box key bag shoe coat ring bell clock song"
)
"""Words for upper case, reversing, joining and repeating."""

PLURALS = _forms(
    "cat=cats dog=dogs hen=hens cow=cows cup=cups book=books tree=trees house=houses box=boxes "
    "fox=foxes bus=buses dish=dishes baby=babies city=cities story=stories leaf=leaves wolf=wolves "
    "knife=knives child=children man=men woman=women foot=feet tooth=teeth goose=geese mouse=mice "
    "sheep=sheep fish=fish apple=apples chair=chairs table=tables key=keys boy=boys potato=potatoes "
    "person=people star=stars ring=rings"
)
PASTS = _forms(
    "go=went see=saw eat=ate run=ran sing=sang take=took give=gave make=made find=found know=knew "
    "come=came write=wrote read=read walk=walked talk=talked play=played look=looked help=helped "
    "jump=jumped love=loved stop=stopped buy=bought bring=brought "
    "teach=taught catch=caught swim=swam drink=drank speak=spoke break=broke sleep=slept "
    "keep=kept leave=left tell=told say=said"
)
COMPARATIVES = _forms(
    "big=bigger small=smaller fast=faster slow=slower tall=taller short=shorter long=longer "
    "old=older young=younger hot=hotter cold=colder happy=happier easy=easier thin=thinner "
    "strong=stronger weak=weaker rich=richer poor=poorer loud=louder clean=cleaner dark=darker "
    "deep=deeper wide=wider cheap=cheaper"
)

WORD_TOPICS: tuple[Topic, ...] = (
    Topic(
        "upper-case",
        {noun: noun.upper() for noun in NOUNS},
        (
            "Write {x} in capital letters.",
            "Put {x} in upper case.",
            "Make {x} all capitals.",
            "Change {x} to capital letters.",
        ),
        "In capitals it is {y}.",
        ("in capitals it is ~ {y}", "you ~ write it as {y}", "that would ~ be {y}"),
    ),
    Topic(
        "plural",
        PLURALS,
        (
            "What is the plural of {x}?",
            "Give the plural of {x}.",
            "Put {x} in the plural.",
            "One {x}, many what?",
        ),
        "The plural of {x} is {y}.",
        ("the plural of {x} is ~ {y}", "one {x} and ~ many {y}", "its ~ {y} when there are more"),
    ),
    Topic(
        "past-tense",
        PASTS,
        (
            "What is the past tense of {x}?",
            "Put {x} in the past tense.",
            "Give the past form of {x}.",
            "Today I {x}, and yesterday?",
        ),
        "The past tense of {x} is {y}.",
        (
            "the past tense of {x} is ~ {y}",
            "today {x} and yesterday ~ {y}",
            "its ~ {y} in the past",
        ),
    ),
    Topic(
        "comparative",
        COMPARATIVES,
        (
            "What is the comparative of {x}?",
            "Give the comparative form of {x}.",
            "Something is more than {x}. What is it?",
            "Compare with {x}: it is what?",
        ),
        "The comparative of {x} is {y}.",
        (
            "the comparative of {x} is ~ {y}",
            "more than {x} is ~ {y}",
            "its ~ {y} when there is more of it",
        ),
    ),
)
"""Rewriting topics with a closed table."""


@dataclass(frozen=True)
class WordTask:
    """A rewriting task over freely drawn words: how it is asked and how it is answered."""

    name: str
    words: tuple[int, int]
    asks: tuple[str, ...]
    change: Callable[[list[str]], str]
    crisp: str
    cores: tuple[str, ...]

    def draw(self, rng: Random) -> list[str]:
        """Draw the words of one task."""
        return rng.sample(NOUNS, rng.randint(*self.words))


def _reverse(words: list[str]) -> str:
    return ", ".join(reversed(words))


def _join(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1]


def _sentence(words: list[str]) -> str:
    return f"The {words[0]} is near the {words[1]}"


def _first(words: list[str]) -> str:
    return words[0]


def _last(words: list[str]) -> str:
    return words[-1]


WORD_TASKS: tuple[WordTask, ...] = (
    WordTask(
        "reverse",
        (3, 3),
        (
            "Reverse the order: {x}.",
            "Write these words in reverse order: {x}.",
            "Put {x} in the opposite order.",
            "Say {x} backwards, word by word.",
        ),
        _reverse,
        "In reverse order: {y}.",
        ("in reverse order its ~ {y}", "backwards that is ~ {y}", "turned round you get ~ {y}"),
    ),
    WordTask(
        "join",
        (3, 4),
        (
            "Join these words with and: {x}.",
            "Make one list of {x}.",
            "Write a list with and: {x}.",
            "Put {x} into one list.",
        ),
        _join,
        "The list is {y}.",
        ("the list is ~ {y}", "you have ~ {y}", "there are ~ {y}"),
    ),
    WordTask(
        "first-word",
        (3, 4),
        (
            "Which word comes first: {x}?",
            "Name the first word of {x}.",
            "What is the first word in {x}?",
            "Give me the first of {x}.",
        ),
        _first,
        "The first word is {y}.",
        ("the first word is ~ {y}", "its ~ {y} that comes first", "that starts with ~ {y}"),
    ),
    WordTask(
        "last-word",
        (3, 4),
        (
            "Which word comes last: {x}?",
            "Name the last word of {x}.",
            "What is the last word in {x}?",
            "Give me the last of {x}.",
        ),
        _last,
        "The last word is {y}.",
        ("the last word is ~ {y}", "its ~ {y} that comes last", "that ends with ~ {y}"),
    ),
    WordTask(
        "sentence",
        (2, 2),
        (
            "Make a sentence with {x}.",
            "Use {x} in a sentence.",
            "Write one sentence about {x}.",
            "Put {x} into a sentence.",
        ),
        _sentence,
        "{y}.",
        ("{y} ~ there", "there is ~ this thing where {y}", "you could ~ say {y}"),
    ),
)
"""Rewriting tasks whose words are drawn freely; `{x}` is the words with commas."""
