"""Screen: a language model says which documents are about telecommunications."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from telellm.lm import language_model_digest, open_language_model
from telellm.lm.prompts import load_prompt
from telellm.lm.yes_no import YesNoQuestion
from telellm.recipe import Screen
from telellm.records import Document, Rejected
from telellm.stage import Context, stage

PROMPTS = Path(__file__).parent / "prompts"
DOCUMENTS_AT_ONCE = 64
"""Documents that are in memory while the model answers."""


@stage(
    sections=("corpus.screen", "lm", "model"),
    produces=Document,
    per=Document,
    workers=1,
    identity=lambda recipe: language_model_digest(recipe.lm, recipe.model),
    reuses=True,
)
def screen(context: Context, settings: Screen, documents: Iterator[Document]) -> Iterator[Document | Rejected]:
    """Keep the documents that the model says are about telecommunications or computer networks.

    The model reads the first words and answers yes or no; the probability of yes against no is kept in the metadata as
    `telecom_probability`. Rejects `"not telecom"` and, without asking,
    `"no telecom keywords"`.
    Source: Tele-LLMs (arXiv 2409.05314), section on filtering with a language model.
    """
    prompt = load_prompt(PROMPTS, settings.prompt)
    client = open_language_model(context.recipe.lm, context.recipe.model)
    used = Counter(client.usage)
    context.progress.start(context.counts["in"], "documents")
    question: YesNoQuestion | None = None
    while batch := list(islice(documents, DOCUMENTS_AT_ONCE)):
        poor = {at for at, document in enumerate(batch) if _has_few_keywords(document, settings)}
        asked = [at for at, d in enumerate(batch) if at not in poor and d.category not in settings.trusted]
        cases = [{"text": excerpt(batch[at].content, settings.excerpt_words)} for at in asked]
        if cases and question is None:  # which asks the model for its lean
            question = YesNoQuestion(client, prompt)
        probabilities = dict(zip(asked, question.probabilities(cases), strict=True)) if question else {}
        context.counts["asked"] += len(asked)
        for at, document in enumerate(batch):
            if at in poor:
                yield Rejected(document, "no telecom keywords", f"fewer than {settings.minimum_keywords}")
            elif at not in probabilities:
                yield document
            elif probabilities[at] < settings.threshold:
                yield Rejected(document, "not telecom", f"{probabilities[at]:.3f}")
            else:
                yield document.with_fields(telecom_probability=round(probabilities[at], 4))
            context.progress.advance()
    context.counts.update(client.usage - used)
    context.summary |= {"prompt": prompt.name, "prompt_digest": prompt.digest}
    context.summary |= {"model": language_model_digest(context.recipe.lm, context.recipe.model)}


def excerpt(text: str, num_words: int) -> str:
    """Return the first words of a text, with single spaces."""
    return " ".join(text[: 40 * num_words].split()[:num_words])


def keywords_in(text: str, enough: int) -> set[str]:
    """Return different telecom keywords in a text; stops at `enough` of them."""
    found: set[str] = set()
    for pattern in KEYWORDS:
        for match in pattern.finditer(text):
            found.add(match[1].casefold())
            if len(found) >= enough:
                return found
    return found


def _has_few_keywords(document: Document, settings: Screen) -> bool:
    if document.category in settings.trusted or document.category not in settings.keyword_categories:
        return False
    return len(keywords_in(document.content, settings.minimum_keywords)) < settings.minimum_keywords


def _compile_keywords() -> list[re.Pattern[str]]:
    """Return a pattern for abbreviations, whose capitals count, and one for words, which may be plural."""
    terms = (PROMPTS / "keywords.txt").read_text(encoding="utf-8").split("\n")
    words = sorted((re.escape(term) for term in terms if term and term == term.lower()), key=len, reverse=True)
    names = sorted((re.escape(term) for term in terms if term != term.lower()), key=len, reverse=True)
    return [
        re.compile(rf"(?<![\w-])({'|'.join(names)})s?(?!\w)"),
        re.compile(rf"\b({'|'.join(words)})(?:e?s)?\b", re.IGNORECASE),
    ]


KEYWORDS = _compile_keywords()
