"""Decontaminate: nothing that a model is tested on may be in its training text.

Run on the corpus against all that the recipe tests with, and before training against Tele-Eval's held-out part as well.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain

from telellm.benchmark.tested import read_tested, tested_digest
from telellm.overlap import Index, split
from telellm.recipe import Decontaminate, Recipe
from telellm.records import Document, Question, Rejected
from telellm.stage import Context, Output, stage

MAX_REMOVED_SHARE = 0.5
"""A document that loses more of its text than this is rejected whole."""


def _place(recipe: Recipe, key: str, inputs: Mapping[str, Output | None]) -> str:
    """The corpus without benchmarks is the snapshot; what training reads is made from it."""
    return f"stages/decontaminate/{key}" if inputs.get("questions") else f"corpora/{recipe.name}/{key}"


@dataclass(frozen=True)
class Scan:
    """What every document is compared with."""

    index: Index
    held_out: frozenset[str]
    """Ids of documents."""


@dataclass(frozen=True)
class _Tested:
    """What a scan is made of; `key` says what changes when it does."""

    key: str
    recipe: Recipe = field(compare=False)
    questions: Output | None = field(compare=False)


@lru_cache(1)
def _prepare(tested: _Tested) -> Scan:
    """Return the scan; made once a process, for all of its shards."""
    questions = tested.questions.records(Question) if tested.questions else ()
    asked = [question for question in questions if question.split == "held-out"]
    # the evidence too: another version of a held-out document says the same, where the answer is in words of its own
    about = (("Tele-Eval", text) for q in asked for text in (f"{q.statement} {q.answer}", q.evidence))
    index = Index.build(chain(read_tested(tested.recipe), about), tested.recipe.corpus.decontaminate.ngram_words)
    return Scan(index, frozenset(question.id for question in asked))


@stage(
    sections=("corpus.decontaminate",),
    produces=Document,
    per=Document,
    place=_place,
    identity=tested_digest,
)
def decontaminate(
    context: Context, settings: Decontaminate, documents: Iterator[Document], questions: Output | None = None
) -> Iterator[Document | Rejected]:
    """Take out of each document the passages that share a run of `ngram_words` words with a test text.

    Rejects `"contaminated"` documents (more than half is gone), each passage with what it matches
    (`"contaminated passage"`), and the documents of held-out questions (`"held out"`).
    """
    scan = _prepare(_Tested(context.base, context.recipe, questions))
    found: Counter[str] = Counter()
    for document in context.progress.track(documents, context.counts["in"], "documents"):
        if document.id in scan.held_out:
            yield Rejected(document, "held out")
            continue
        kept, removed = split(document.content, scan.index)
        if not removed:
            yield document
            continue
        for passage, source in removed:
            found[source] += 1
            item = {"id": document.id, "passage": passage}
            yield Rejected(item, "contaminated passage", f"shares {scan.index.length} words with {source}")
        if len(kept) < (1 - MAX_REMOVED_SHARE) * len(document.content):
            yield Rejected(document, "contaminated")
        else:
            yield document.with_content(kept).with_fields(passages_removed=len(removed))
    context.summary |= {
        "benchmark_ngrams": len(scan.index.hashes),
        "held_out_documents": len(scan.held_out),
        "found": dict(found),
    }
