"""SemScore: how near a model's answer comes to the reference in meaning."""

from collections.abc import Sequence

from telellm.lm.models import model_directory


def score(answers: Sequence[str], references: Sequence[str], embedder: str) -> list[float]:
    """Return the cosine of the sentence embeddings of each answer and its reference, in [-1, 1].

    An empty answer says nothing and gets 0.
    Source: Aynetdinov and Akbik, SemScore (arXiv 2401.17072).
    """
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = SentenceTransformer(str(model_directory(embedder)), trust_remote_code=False)
    vectors = model.encode([*answers, *references], normalize_embeddings=True, show_progress_bar=False)
    cosines = (vectors[: len(answers)] * vectors[len(answers) :]).sum(axis=1)
    return [float(cosine) if answer.strip() else 0.0 for answer, cosine in zip(answers, cosines, strict=True)]
