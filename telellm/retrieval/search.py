"""Search: the passages of a snapshot that are about a question."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from telellm.retrieval.index import index_folder, schema
from telellm.retrieval.passages import Passage
from telellm.retrieval.tokens import tokenize
from telellm.stage import Output

MOST_WORDS = 64
"""Words of a question by which passages are sought."""
RANK_OFFSET = 60
"""Of reciprocal rank fusion."""


@dataclass(frozen=True, slots=True)
class Found:
    """A passage that was found, and how well it fits (comparable within one question)."""

    passage: Passage
    score: float


class PassageSearch:
    """An index that is open. Its files are mapped into memory, not read."""

    def __init__(self, output: Output, embedder: str = "", candidates: int = 50) -> None:
        import tantivy

        self._folder = tempfile.TemporaryDirectory(prefix="telellm-index-")
        self._index = tantivy.Index(schema(), path=str(index_folder(output, Path(self._folder.name))))
        self._searcher = self._index.searcher()
        self._candidates = candidates
        self._order = _order_by_meaning(embedder) if embedder else None

    def search(self, questions: Sequence[str], number: int) -> list[list[Found]]:
        """Return for each question the `number` best passages, the best first; fewer where fewer share a word.

        BM25 (Robertson and others, Okapi at TREC-3, 1995) with k1 = 1.2 and b = 0.75. With an embedder, the best
        candidates are ordered anew by the sum of the reciprocal ranks in BM25 and in cosine (Cormack and others,
        Reciprocal Rank Fusion, 2009).
        """
        most = max(number, self._candidates) if self._order else number
        found = [self._by_words(question, most) for question in questions]
        if self._order:
            found = self._order(questions, found)
        return [passages[:number] for passages in found]

    def rank_documents(self, questions: Sequence[str], depth: int) -> list[list[str]]:
        """Return for each question the ids of the `depth` best documents, each ranked by its best passage."""
        ranked = []
        for passages in self.search(questions, 10 * depth):
            ranked.append(list(dict.fromkeys(found.passage.document for found in passages))[:depth])
        return ranked

    def _by_words(self, question: str, number: int) -> list[Found]:
        import tantivy

        words = list(dict.fromkeys(tokenize(question)))[:MOST_WORDS]
        terms = [
            (tantivy.Occur.Should, tantivy.Query.term_query(self._index.schema, "words", word, "freq"))
            for word in words
        ]
        hits = (
            self._searcher.search(tantivy.Query.boolean_query(terms), limit=number, count=False).hits if terms else []
        )
        found = []
        for score, address in hits:
            row = self._searcher.doc(address)["passage"][0]
            found.append(Found(Passage(*json.loads(row)), score))
        # equal scores would come in the order of the index's files
        return sorted(found, key=lambda each: (-each.score, each.passage.document, each.passage.text))


Ranked = list[list[Found]]


def _order_by_meaning(embedder: str) -> Callable[[Sequence[str], Ranked], Ranked]:
    """Return what orders the passages of questions anew, with the embedder in memory."""
    from telellm.lm.embedding import load_embedder

    vectors_of = load_embedder(embedder)

    def order(questions: Sequence[str], found: Ranked) -> Ranked:
        texts = list(dict.fromkeys([*questions, *(each.passage.text for passages in found for each in passages)]))
        vectors = vectors_of(texts)
        at = {text: number for number, text in enumerate(texts)}
        ordered = []
        for question, passages in zip(questions, found, strict=True):
            cosines = [float(vectors[at[question]] @ vectors[at[each.passage.text]]) for each in passages]
            scores: dict[int, float] = defaultdict(float)
            for rank in range(len(passages)):
                scores[rank] += 1 / (RANK_OFFSET + rank)
            for rank, number in enumerate(sorted(range(len(passages)), key=lambda one: -cosines[one])):
                scores[number] += 1 / (RANK_OFFSET + rank)
            best = sorted(range(len(passages)), key=lambda one: -scores[one])
            ordered.append([Found(passages[one].passage, scores[one]) for one in best])
        return ordered

    return order
