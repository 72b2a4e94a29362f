"""Language: 1 where the completion is in the language asked for, else 0; a heuristic without a model.

Letters decide between scripts. Languages that share a script are told apart by their commonest words: the
one with the most of them in the text is taken to be its language. A short text may have none; then the
script alone counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from pydantic import Field, field_validator

from mlx_align.rewards.answers import answer_text
from mlx_align.rewards.base import Options, Reward, Sampled, pure

SCRIPTS: dict[str, tuple[str, ...]] = {
    "ar": ("ARABIC",),
    "el": ("GREEK",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "ja": ("HIRAGANA", "KATAKANA", "CJK"),
    "ko": ("HANGUL",),
    "ru": ("CYRILLIC",),
    "th": ("THAI",),
    "uk": ("CYRILLIC",),
    "zh": ("CJK",),
}
"""Language -> how Unicode's names of its letters begin; every other language here is written in LATIN."""

COMMON = {
    "de": "der die das und ist nicht ein eine zu mit auf für von den dem sich auch es ich sie wir",
    "en": "the and is are was to of in that it you for with not this be have on as they we",
    "es": "el la los las y es son de que en un una por con para no se del al como pero más",
    "fr": "le la les et est sont de des que en un une pour avec dans ne pas sur il elle nous du",
    "it": "il la gli e è sono di che in un una per con non si del della come ma anche più",
    "nl": "de het een en is zijn van dat niet op te voor met die er aan ook maar wij ik",
    "pl": "i w na nie to jest się że z do jak ale po co tak być o dla są przez",
    "pt": "o a os as e é são de que em um uma por com para não se do da como mas mais",
    "ru": "и в не на что это как с по но из у за от для он она мы вы был",
    "sv": "och i att det som en på är av för med den till inte har jag ett vi de om",
    "tr": "ve bir bu da de için ile çok ne gibi daha olarak var ama değil mi o en her ben",
    "uk": "і в не на що це як з по але із у за від для він вона ми ви був є та",
}
"""Language -> its commonest words, for languages that share a script."""

LANGUAGES = tuple(sorted({*SCRIPTS, *COMMON}))
SHARE = 0.6
"""Of the letters, at least so many must be of the language's script: names and formulas may be foreign."""

_WORDS = {language: frozenset(words.split()) for language, words in COMMON.items()}


class LanguageOptions(Options):
    """The language."""

    language: str = Field(description=f"one of {', '.join(LANGUAGES)}")

    @field_validator("language")
    @classmethod
    def _known(cls, language: str) -> str:
        if language not in LANGUAGES:
            raise ValueError(f"'{language}' is not one of {', '.join(LANGUAGES)}")
        return language


def language(sampled: Sampled, options: LanguageOptions) -> float:
    """1 where script and common words speak for the language, 0 otherwise and for text without letters."""
    text = answer_text(sampled)
    wanted = options.language
    return float(_in_script(text, wanted) and _most_common_words(text, wanted))


def _in_script(text: str, wanted: str) -> bool:
    # KATAKANA LETTER A, KATAKANA-HIRAGANA PROLONGED SOUND MARK, CJK UNIFIED IDEOGRAPH-4E00
    names = (unicodedata.name(character, "") for character in text if character.isalpha())
    letters = Counter(name.split(" ")[0].split("-")[0] for name in names)
    if wanted == "ja" and not letters["HIRAGANA"] + letters["KATAKANA"]:
        return False  # characters alone are Chinese
    share = sum(letters[script] for script in SCRIPTS.get(wanted, ("LATIN",)))
    return bool(letters) and share >= SHARE * letters.total()


def _most_common_words(text: str, wanted: str) -> bool:
    """Whether no language of the same script has more of its common words in the text."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    script = SCRIPTS.get(wanted)
    hits = {
        language: sum(word in common for word in words)
        for language, common in _WORDS.items()
        if SCRIPTS.get(language) == script
    }
    return hits.get(wanted, 0) == max(hits.values(), default=0)


REWARD = Reward("language", "the language asked for", LanguageOptions, pure(language))
