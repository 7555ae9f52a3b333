"""Section `retrieval`: documents at hand when a model answers."""

from pydantic import Field

from telellm.recipe.fields import ModelName, Settings


class Index(Settings):
    """Section `retrieval.index`: how a snapshot is divided to be searched."""

    passage_words: int = Field(
        120, ge=20, le=2000, description="Longest passage (words); a passage never spans two headings."
    )


class Retrieval(Settings):
    """Section `retrieval`: passages of the snapshot are found for each question of Tele-Eval."""

    enabled: bool = Field(False, description="Index the snapshot, and measure models also with passages in the prompt.")
    index: Index = Index()  # type: ignore[call-arg]
    passages: int = Field(3, ge=1, le=50, description="Passages in the prompt of a question.")
    embedder: ModelName = Field(
        "",
        description="Sentence embedder that orders what BM25 finds anew: directory, hub name, package:…; empty: none.",
    )
    candidates: int = Field(50, ge=1, le=1000, description="Passages that the embedder reads for a question.")
    max_questions: int = Field(
        0, ge=0, description="Questions that are asked with passages; 0: all. What is found is measured for every one."
    )
    generate: bool = Field(
        True,
        description="Let models also answer in words with passages, for SemScore and judge, where section `evaluation` "
        "measures these.",
    )
