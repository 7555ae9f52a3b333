"""Clean: named rules take out of a document's text what is not prose, formula, table or code."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256

from telellm.corpus.rules import RULES, Rule, apply
from telellm.recipe import Clean, RecipeError
from telellm.records import Document, Rejected
from telellm.stage import Context, stage

SAMPLES_PER_SHARD = 100
MAX_REPEATED_SHARE = 0.2
"""Share of a web page's characters in lines that stood there before (Gopher, arXiv 2112.11446, Table A1)."""


@stage(sections=("corpus.clean",), produces=Document, per=Document, reuses=True)
def clean(context: Context, settings: Clean, documents: Iterator[Document]) -> Iterator[Document | Rejected]:
    """Apply the rules to each document, and count how often each changed something.

    Rejects `"too short"`, and web pages that are `"repetitive"`. Some texts that changed are kept before and after, in
    `samples/`. Source: Tele-LLMs (arXiv 2409.05314), Section III on cleaning by regular expressions.
    """
    rules = select_rules(settings.rules)
    samples: list[dict[str, str]] = []
    for document in documents:
        text, found = apply(document.content, rules)
        for name, number in found.items():
            context.counts[f"rule {name}"] += number
        if found and len(samples) < SAMPLES_PER_SHARD and _drawn(document.id, settings.sample_share):
            samples.append({"id": document.id, "rules": json.dumps(found), "before": document.content, "after": text})
        num_words = word_count(text)
        if num_words < settings.minimum_words:
            yield Rejected(document, "too short", f"{num_words} words")
        elif document.category == "web" and (share := repeated_share(text)) > MAX_REPEATED_SHARE:
            yield Rejected(document, "repetitive", f"{share:.0%} of it are repeated lines")
        else:
            yield document if text == document.content else document.with_content(text)
    if samples:
        _write_samples(context, samples)


def select_rules(names: list[str]) -> dict[str, Rule]:
    """Return the named rules, or all; raises `RecipeError` for a name that is not one."""
    for name in names:
        if name not in RULES:
            raise RecipeError(f'corpus.clean.rules: "{name}" is not a rule\n  known rules: {", ".join(RULES)}')
    return {name: RULES[name] for name in names} if names else RULES


def word_count(text: str) -> int:
    """Return the number of words that hold a letter or digit."""
    return sum(1 for _ in re.finditer(r"\w\S*+", text))


def repeated_share(text: str) -> float:
    """Return the share of a text's characters that lie in lines which stood there before; 0 for an empty text."""
    lines = Counter(filter(None, map(str.strip, text.split("\n"))))
    num_characters = sum(len(line) * number for line, number in lines.items())
    return sum(len(line) * (number - 1) for line, number in lines.items()) / max(1, num_characters)


def _drawn(identity: str, share: float) -> bool:
    return int(sha256(identity.encode()).hexdigest()[:8], 16) < share * 2**32


def _write_samples(context: Context, samples: list[dict[str, str]]) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    folder = context.directory / "samples"
    folder.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(samples), folder / "changed.parquet", compression="zstd")
