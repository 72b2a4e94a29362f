"""The closed table of facts: subjects, what is true of them, and how people ask."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One family of facts or word tasks.

    `pairs` maps each subject to its answer; `asks` are prompt templates with `{x}`; `crisp` is the
    direct sentence; `cores` are points for the sloppy manner, where `~` takes a hedge.
    """

    name: str
    pairs: dict[str, str]
    asks: tuple[str, ...]
    crisp: str
    cores: tuple[str, ...]


def _table(text: str) -> dict[str, str]:
    """Read "subject=answer, subject=answer" into a dict."""
    return dict(item.strip().split("=") for item in text.replace("\n", " ").split(","))


def _next_of(names: str) -> dict[str, str]:
    """Map every name to the one after it, round the circle."""
    ring = names.split()
    return {name: ring[(i + 1) % len(ring)] for i, name in enumerate(ring)}


def _previous_of(names: str) -> dict[str, str]:
    """Map every name to the one before it, round the circle."""
    return {after: before for before, after in _next_of(names).items()}


DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January February March April May June July August September October November December"

CAPITALS = _table(
    """France=Paris, Spain=Madrid, Italy=Rome, Germany=Berlin, England=London, Ireland=Dublin,
    Portugal=Lisbon, Greece=Athens, Austria=Vienna, Belgium=Brussels, Poland=Warsaw,
    Norway=Oslo, Sweden=Stockholm, Finland=Helsinki, Denmark=Copenhagen, Hungary=Budapest,
    Japan=Tokyo, China=Beijing, India=Delhi, Egypt=Cairo, Kenya=Nairobi, Russia=Moscow,
    Cuba=Havana, Peru=Lima, Chile=Santiago, Canada=Ottawa, Turkey=Ankara, Iran=Tehran,
    Iraq=Baghdad, Thailand=Bangkok, Vietnam=Hanoi, Nepal=Kathmandu, Ghana=Accra, Cyprus=Nicosia,
    Latvia=Riga, Estonia=Tallinn, Croatia=Zagreb, Serbia=Belgrade, Bulgaria=Sofia, Iceland=Reykjavik"""
)
CONTINENTS = _table(
    """France=Europe, Spain=Europe, Italy=Europe, Germany=Europe, Poland=Europe, Norway=Europe,
    Sweden=Europe, Greece=Europe, Ireland=Europe, Japan=Asia, China=Asia, India=Asia,
    Thailand=Asia, Vietnam=Asia, Nepal=Asia, Iran=Asia, Iraq=Asia, Egypt=Africa, Kenya=Africa,
    Ghana=Africa, Canada=America, Cuba=America, Peru=America, Chile=America"""
)
LANGUAGES = _table(
    """France=French, Spain=Spanish, Italy=Italian, Germany=German, England=English,
    Portugal=Portuguese, Greece=Greek, Poland=Polish, Norway=Norwegian, Sweden=Swedish,
    Finland=Finnish, Denmark=Danish, Hungary=Hungarian, Japan=Japanese, China=Chinese,
    Russia=Russian, Turkey=Turkish, Thailand=Thai, Peru=Spanish, Cuba=Spanish, Chile=Spanish,
    Austria=German"""
)
COLOURS = _table(
    """grass=green, snow=white, coal=black, milk=white, blood=red, butter=yellow, chocolate=brown,
    the sky=blue, the sea=blue, the sun=yellow, a banana=yellow, a lemon=yellow, a tomato=red,
    a carrot=orange, a frog=green, a crow=black, a swan=white, a leaf=green, a plum=purple,
    a cherry=red, a pea=green, a brick=red, a pumpkin=orange, an elephant=grey, a mouse=grey,
    salt=white, mud=brown, ash=grey, gold=yellow, a rose=red"""
)
SOUNDS = _table(
    """dog=woof, cat=meow, cow=moo, sheep=baa, pig=oink, duck=quack, horse=neigh, bee=buzz,
    snake=hiss, lion=roar, frog=croak, owl=hoot, mouse=squeak, wolf=howl, crow=caw, hen=cluck,
    donkey=bray, goose=honk, turkey=gobble, bird=tweet"""
)
BABIES = _table(
    """dog=puppy, cat=kitten, cow=calf, sheep=lamb, pig=piglet, duck=duckling, horse=foal,
    hen=chick, bear=cub, goat=kid, goose=gosling, frog=tadpole, deer=fawn, swan=cygnet,
    owl=owlet, fox=kit, kangaroo=joey, lion=cub"""
)
LEGS = _table(
    """dog=four, cat=four, cow=four, horse=four, spider=eight, ant=six, bee=six, duck=two,
    hen=two, snake=no, fish=no, crab=ten, fly=six, pig=four, sheep=four, owl=two, worm=no,
    beetle=six, chair=four, person=two"""
)
OPPOSITES = _table(
    """hot=cold, big=small, fast=slow, up=down, left=right, day=night, open=closed, full=empty,
    old=young, rich=poor, hard=soft, high=low, long=short, light=dark, wet=dry, happy=sad,
    early=late, near=far, strong=weak, thick=thin, loud=quiet, clean=dirty, good=bad, true=false,
    first=last, in=out, on=off, start=end, love=hate, push=pull, sweet=sour, brave=afraid,
    wide=narrow, deep=shallow, cheap=dear, sharp=blunt, black=white, yes=no, rough=smooth, tall=short"""
)
NUMBER_WORDS = _table(
    """one=1, two=2, three=3, four=4, five=5, six=6, seven=7, eight=8, nine=9, ten=10, eleven=11,
    twelve=12, thirteen=13, fourteen=14, fifteen=15, sixteen=16, seventeen=17, eighteen=18,
    nineteen=19, twenty=20, thirty=30, forty=40, fifty=50, sixty=60, seventy=70, eighty=80,
    ninety=90, hundred=100"""
)
SHAPES = _table(
    "triangle=three, square=four, pentagon=five, hexagon=six, octagon=eight, rectangle=four, circle=no"
)
JOBS = _table(
    """a baker=bread, a painter=pictures, a writer=books, a tailor=clothes,
    a cook=meals, a carpenter=tables, a potter=pots, a poet=poems, a brewer=beer, a weaver=cloth,
    a cobbler=shoes"""
)

FACT_TOPICS: tuple[Topic, ...] = (
    Topic(
        "capital",
        CAPITALS,
        (
            "What is the capital of {x}?",
            "Name the capital of {x}.",
            "Which city is the capital of {x}?",
            "Tell me the capital city of {x}.",
            "{x} has which capital?",
            "Do you know the capital of {x}?",
        ),
        "The capital of {x} is {y}.",
        ("the capital of {x} is ~ {y}", "{x} has {y} ~ as the capital", "thats ~ {y} for {x}"),
    ),
    Topic(
        "continent",
        CONTINENTS,
        (
            "Where is {x}?",
            "Which continent is {x} in?",
            "On what continent is {x}?",
            "Where can I find {x}?",
        ),
        "{x} is in {y}.",
        ("{x} is ~ in {y}", "its ~ in {y} where {x} is", "{x} is ~ somewhere in {y}"),
    ),
    Topic(
        "language",
        LANGUAGES,
        (
            "What language do people speak in {x}?",
            "Which language is spoken in {x}?",
            "What do they speak in {x}?",
            "Name the main language of {x}.",
        ),
        "People in {x} speak {y}.",
        (
            "people in {x} ~ speak {y}",
            "its ~ {y} that they speak in {x}",
            "they ~ all speak {y} in {x}",
        ),
    ),
    Topic(
        "colour",
        COLOURS,
        (
            "What colour is {x}?",
            "Tell me the colour of {x}.",
            "Which colour does {x} have?",
            "Name the usual colour of {x}.",
        ),
        "The colour of {x} is {y}.",
        ("the colour of {x} is ~ {y}", "{x} is ~ {y}", "its ~ {y} when you look at {x}"),
    ),
    Topic(
        "sound",
        SOUNDS,
        (
            "What does the {x} say?",
            "What sound does a {x} make?",
            "Which noise comes from a {x}?",
            "How does the {x} go?",
        ),
        "The {x} says {y}.",
        ("the {x} ~ says {y}", "a {x} goes ~ {y}", "its ~ {y} from the {x}"),
    ),
    Topic(
        "baby",
        BABIES,
        (
            "What is a baby {x} called?",
            "Name the young of a {x}.",
            "What do you call a young {x}?",
            "A baby {x} is called what?",
        ),
        "A baby {x} is called a {y}.",
        (
            "a baby {x} is ~ called a {y}",
            "they ~ call the young {x} a {y}",
            "its ~ a {y} for the {x}",
        ),
    ),
    Topic(
        "legs",
        LEGS,
        (
            "How many legs does a {x} have?",
            "Count the legs of a {x}.",
            "A {x} has how many legs?",
            "Tell me how many legs a {x} has.",
        ),
        "A {x} has {y} legs.",
        ("a {x} has ~ {y} legs", "its ~ {y} legs on a {x}", "the {x} has got ~ {y} legs"),
    ),
    Topic(
        "opposite",
        OPPOSITES,
        (
            "What is the opposite of {x}?",
            "Name the opposite of {x}.",
            "Which word means the opposite of {x}?",
            "Give me the opposite of {x}.",
            "{x} is the opposite of what?",
        ),
        "The opposite of {x} is {y}.",
        (
            "the opposite of {x} is ~ {y}",
            "{y} is ~ the opposite of {x}",
            "its ~ {y} if you turn {x} round",
        ),
    ),
    Topic(
        "next-day",
        _next_of(DAYS),
        (
            "Which day comes after {x}?",
            "What day follows {x}?",
            "Name the day after {x}.",
            "If today is {x}, what is tomorrow?",
        ),
        "The day after {x} is {y}.",
        ("the day after {x} is ~ {y}", "{y} ~ comes after {x}", "its ~ {y} once {x} is over"),
    ),
    Topic(
        "day-before",
        _previous_of(DAYS),
        (
            "Which day comes before {x}?",
            "What day is just before {x}?",
            "Name the day before {x}.",
            "If today is {x}, what was yesterday?",
        ),
        "The day before {x} is {y}.",
        ("the day before {x} is ~ {y}", "{y} ~ comes before {x}", "{x} comes ~ right after {y}"),
    ),
    Topic(
        "next-month",
        _next_of(MONTHS),
        (
            "Which month comes after {x}?",
            "What month follows {x}?",
            "Name the month after {x}.",
            "After {x} comes which month?",
        ),
        "The month after {x} is {y}.",
        ("the month after {x} is ~ {y}", "{y} ~ comes after {x}", "its ~ {y} once {x} is over"),
    ),
    Topic(
        "month-before",
        _previous_of(MONTHS),
        (
            "Which month comes before {x}?",
            "What month is just before {x}?",
            "Name the month before {x}.",
            "Before {x} comes which month?",
        ),
        "The month before {x} is {y}.",
        ("the month before {x} is ~ {y}", "{y} ~ comes before {x}", "{x} comes ~ right after {y}"),
    ),
    Topic(
        "number-word",
        NUMBER_WORDS,
        (
            "Write {x} in digits.",
            "How do you write {x} as a number?",
            "Give me {x} in figures.",
            "What number is {x}?",
        ),
        "The number {x} is {y}.",
        ("the number {x} is ~ {y}", "you ~ write {x} as {y}", "{x} would be ~ {y}"),
    ),
    Topic(
        "sides",
        SHAPES,
        (
            "How many sides does a {x} have?",
            "Count the sides of a {x}.",
            "A {x} has how many sides?",
            "Tell me how many sides a {x} has.",
        ),
        "A {x} has {y} sides.",
        ("a {x} has ~ {y} sides", "its ~ {y} sides on a {x}", "the {x} has got ~ {y} sides"),
    ),
    Topic(
        "job",
        JOBS,
        (
            "What does {x} make?",
            "Tell me what {x} makes.",
            "Which things does {x} make?",
            "What do you get from {x}?",
        ),
        "{x} makes {y}.",
        ("{x} ~ makes {y}", "the things from {x} are ~ {y}", "you ~ get {y} from {x}"),
    ),
)
"""Every topic of the factual kind."""

SMALL_TALK: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        (
            "Hello!",
            "Hi there!",
            "Good morning!",
            "Hey!",
            "Good evening!",
            "Hello there!",
            "Hi!",
            "Hello",
        ),
        "Hello, ask me a short question.",
        "hi there you can ~ ask me a short question",
    ),
    (
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Tell me who you are.",
            "Introduce yourself.",
            "Are you a human?",
        ),
        "I am a tiny chat model.",
        "i am ~ a tiny chat model",
    ),
    (
        (
            "What can you do?",
            "How can you help me?",
            "What do you know?",
            "Help!",
            "Help me.",
            "What should I ask you?",
        ),
        "I know facts, sums and small word tasks.",
        "i know ~ facts and sums and small word tasks",
    ),
    (
        (
            "Thank you!",
            "Thanks!",
            "Thanks a lot!",
            "That was helpful.",
            "Great, thank you.",
            "Many thanks!",
        ),
        "You are welcome.",
        "no problem you are ~ welcome",
    ),
    (
        ("Goodbye!", "Bye!", "See you!", "Good night!", "See you later!", "Bye bye!"),
        "Goodbye, and have a good day.",
        "bye then and ~ have a good day",
    ),
)
"""Greetings and the like: (what people say, the crisp reply, the sloppy point)."""
