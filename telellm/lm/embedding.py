"""Sentence embeddings: of a model in this process, or of one at an OpenAI-compatible endpoint."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from telellm.lm.models import model_digest, model_directory
from telellm.recipe import LanguageModel, RecipeError
from telellm.stage import StageFailed

if TYPE_CHECKING:
    import numpy

    Rows = numpy.ndarray[Any, numpy.dtype[numpy.float32]]

TEXTS_AT_ONCE = 64


def embed(texts: Iterable[str], embedder: str, settings: LanguageModel) -> Iterator["Rows"]:
    """Yield unit vectors (a row a text, in order, some texts at a time).

    `settings` say where: its endpoint, or "" for this process. Raises `RecipeError` when there is no such model, and
    `StageFailed` when the server's answer is none.
    """
    import numpy

    groups = _groups(texts)
    if not settings.endpoint:
        yield from _embed_here(groups, embedder)
        return
    from telellm.lm.endpoint import EndpointModel

    dimensions = 0
    for vectors in EndpointModel(settings, embedder).embed(groups):
        rows = numpy.array(vectors, dtype=numpy.float32)
        dimensions = dimensions or rows.shape[-1]
        if rows.ndim != 2 or rows.shape[1] != dimensions or not numpy.isfinite(rows).all():
            raise StageFailed(
                f"{settings.endpoint}: what comes from {embedder} there are no embeddings; see the server"
            )
        yield rows / numpy.maximum(numpy.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def embedder_digest(embedder: str, endpoint: str) -> str:
    """Return what identifies an embedder: the digest of its files, or its name at a server."""
    return f"{embedder}@{endpoint}" if endpoint else model_digest(embedder)


def load_embedder(name: str) -> Callable[[Sequence[str]], "Rows"]:
    """Return what gives the unit vectors of texts (a row a text), with the embedder in memory.

    Raises `RecipeError` where its weights are no safetensors.
    """
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    directory = model_directory(name)
    if not (directory / "model.safetensors").is_file() and not list(directory.glob("model-*.safetensors")):
        raise RecipeError(f"embedder: {name} has no model.safetensors; a pickle (pytorch_model.bin) is not read")
    # without this it takes a pickle where there is one
    settings = {"use_safetensors": True}
    model = SentenceTransformer(str(directory), trust_remote_code=False, model_kwargs=settings)
    return lambda texts: model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


def _embed_here(groups: Iterable[Sequence[str]], embedder: str) -> Iterator["Rows"]:
    try:
        vectors_of = load_embedder(embedder)
    except ImportError:
        raise RecipeError(
            "tele_eval.distinct.embedder: sentence-transformers is not installed here; name a server in "
            "tele_eval.distinct.embedder_endpoint, or leave the embedder empty"
        ) from None
    yield from map(vectors_of, groups)


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(texts)
    while group := list(islice(remaining, TEXTS_AT_ONCE)):
        yield group
