"""Messages: how a value and its alternatives stand in what is said of a mistake in a recipe."""

import difflib
from collections.abc import Sequence


def short(text: str, length: int = 80) -> str:
    """Return a text's beginning."""
    return text if len(text) <= length else f"{text[:length]}…"


def alternatives(value: str, known: Sequence[str], what: str) -> str:
    """Return what is known instead of a value, and which of it was probably meant; `what`: the plural of its kind."""
    text = f"\n  known {what}: {', '.join(known)}" if known else ""
    if close := difflib.get_close_matches(value, known, 1):
        text += f'\n  did you mean "{close[0]}"?'
    return text
