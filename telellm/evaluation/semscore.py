"""SemScore: how near a model's answer comes to the reference in meaning."""

from collections.abc import Sequence
from typing import Any

from telellm.lm.embedding import load_embedder


def add_semscores(rows: Sequence[dict[str, Any]], references: Sequence[str], embedder: str) -> None:
    """Put into each row the SemScore of what was generated."""
    for row, cosine in zip(rows, score([str(row["generated"]) for row in rows], references, embedder), strict=True):
        row["semscore"] = cosine


def score(answers: Sequence[str], references: Sequence[str], embedder: str) -> list[float]:
    """Return the cosine of the sentence embeddings of each answer and its reference, in [-1, 1].

    An empty answer says nothing and gets 0.
    Source: Aynetdinov and Akbik, SemScore (arXiv 2401.17072).
    """
    vectors = load_embedder(embedder)([*answers, *references])
    cosines = (vectors[: len(answers)] * vectors[len(answers) :]).sum(axis=1)
    return [float(cosine) if answer.strip() else 0.0 for answer, cosine in zip(answers, cosines, strict=True)]
