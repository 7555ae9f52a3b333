"""Tokens: the words by which telecom text is found.

A specification's number (`38.331`), a name with hyphens, slashes or underscores (`S-NSSAI`, `RRC_CONNECTED`), one in
camel case (`servingCellConfig`) and a formula's symbol (`$P_{\\mathrm{max}}$`) are each one token, and their parts are
tokens beside it: whoever writes them in another way finds them still.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

WORD = re.compile(r"[^\W_]+(?:[-_/.^'’:][^\W_]+)*")
FONT = re.compile(
    r"\\(?:mathrm|mathbf|mathit|mathsf|mathcal|mathbb|boldsymbol|text|textrm|textit|operatorname|bm)\b\*?"
)
COMMAND = re.compile(r"\\([A-Za-z]+)")
BRACES = re.compile(r"[{}$]|\\[,;!: ]")
INNER = re.compile(r"[-_/^:]")
POSSESSIVE = re.compile(r"['’](?:s|t|re|ll|d)?$")
NUMBER = re.compile(r"\d+(?:\.\d+)*")
CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
LONGEST = 100
"""A longer token is not text (characters)."""
COMMON = (
    "a about an and are as at be been between by can could did do does for from had has have how if in into is it its "
    "of on or should so such than that the their them then there these they this those to was were what when where "
    "which while who why will with would"
)


NOT_SOUGHT = frozenset(COMMON.split())


def tokenize(text: str) -> Iterator[str]:
    """Yield the tokens of a text, in its order; none has a space in it."""
    plain = unicodedata.normalize("NFKC", text)
    if "\\" in plain or "$" in plain:
        plain = BRACES.sub("", COMMAND.sub(r" \1", FONT.sub("", plain)))
    for word in WORD.findall(plain):
        yield from _forms(word)


@lru_cache(maxsize=2**16)
def _forms(word: str) -> tuple[str, ...]:
    """Return a word as one token, and its parts."""
    return tuple(
        token for token in _spell(POSSESSIVE.sub("", word)) if token not in NOT_SOUGHT and len(token) <= LONGEST
    )


def _spell(word: str) -> Iterator[str]:
    whole = word.casefold()
    if whole.isalpha():
        yield _singular(whole)
        parts = CAMEL.findall(word) if not (word.islower() or word.istitle() or word.isupper()) else []
        yield from (_singular(part.casefold()) for part in parts if len(part) > 2 and part.casefold() != whole)
        return
    yield whole
    if NUMBER.fullmatch(word):
        return
    pieces = INNER.split(word)
    if len(pieces) == 1 and "." in word:  # a sentence that lost its space, an address, a file's name
        pieces = word.split(".")
    if len(pieces) > 1:
        yield "".join(pieces).casefold()
        for piece in pieces:
            if len(piece) > 1:
                yield from _spell(piece)


def _singular(word: str) -> str:
    """Return a word without its plural ending.

    Source: Harman, How Effective Is Suffixing? (1991), the S stemmer.
    """
    if len(word) < 4 or not word.endswith("s"):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return f"{word[:-3]}y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    return word if word.endswith(("us", "ss")) else word[:-1]
