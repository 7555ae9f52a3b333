"""Section `tele_eval`: open questions from the corpus, or from a file."""

from typing import Literal, get_args

from pydantic import Field

from telellm.recipe.fields import Endpoint, ModelName, PathOrUri, Settings, Share

Kind = Literal["definition", "value", "procedure", "reason", "formula", "comparison"]
"""What a question asks for."""


class Draft(Settings):
    """Section `tele_eval.draft`: how questions are written, and the rules that throw out what is not fit."""

    method: Literal["pieces", "facts"] = Field(
        "pieces",
        description="pieces: a capable model reads a piece of a document and writes questions, answers and evidence, "
        "as in the paper; facts: rules pick sentences that state a fact, and the model only words the question (what a "
        "model of 135M parameters can do).",
    )
    kinds: list[Kind] = Field(list(get_args(Kind)), min_length=1, description="Kinds of questions that are asked for.")
    pieces_per_document: int = Field(
        8, ge=0, description="Pieces (clauses, sections, parts of long ones) of a document that are read; 0: all."
    )
    piece_words: int = Field(350, ge=50, le=4000, description="Longest piece; a longer clause is several (words).")
    questions_per_piece: int = Field(4, ge=1, le=20, description="Most questions that are asked for about a piece.")
    max_answer_tokens: int = Field(
        1200, ge=64, le=16_384, description="Longest text that the model writes about one piece (tokens)."
    )
    passages_per_document: int = Field(
        3, ge=1, description="With method facts: sentences of a document that are asked about, one question each."
    )
    passage_words: int = Field(80, ge=20, description="With method facts: length of the evidence around one (words).")
    max_question_tokens: int = Field(48, ge=16, description="With method facts: longest question (tokens).")
    minimum_answer_words: int = Field(3, ge=1, description="Shorter answers are rejected (words).")
    maximum_answer_words: int = Field(80, ge=5, description="Longer answers are rejected (words).")
    minimum_overlap: Share = Field(
        0.6, description="Least share of the answer's content words that the piece or passage must contain."
    )
    pieces_prompt: str = Field("pieces-1", description="Name of the prompt for pieces in telellm/tele_eval/prompts.")
    facts_prompt: str = Field("question-1", description="Name of the prompt for facts in telellm/tele_eval/prompts.")


class Distinct(Settings):
    """Section `tele_eval.distinct`: of questions that ask the same, in the whole set, one is kept."""

    similarity: Share = Field(
        0.85, description="Cosine of two questions from which they ask the same; 1: only the same words."
    )
    embedder: ModelName = Field(
        "",
        description="Sentence embedder that compares questions by meaning: directory, hub name, package:…; empty: by "
        "their words, the rarer the heavier (TF-IDF).",
    )
    embedder_endpoint: Endpoint = Field(
        "", description="URL of an OpenAI-compatible server (…/v1) that has the embedder; empty: in this process."
    )


class Check(Settings):
    """Section `tele_eval.check`: what the model says of each question that is left; each needs a capable model."""

    self_contained_threshold: Share = Field(
        0.5,
        description="Least probability, by the model, that who does not see the document understands what is asked; 0: "
        "not asked.",
    )
    support_threshold: Share = Field(
        0.5, description="Least probability, by the model, that the evidence says what the answer says; 0: not asked."
    )
    correct_threshold: Share = Field(
        0.5,
        description="Least probability, by the model, that the answer answers the question rightly and completely; 0: "
        "not asked.",
    )
    self_contained_prompt: str = Field(
        "self-contained-1", description="Name of the prompt in telellm/tele_eval/prompts."
    )
    support_prompt: str = Field("support-2", description="Name of the prompt in telellm/tele_eval/prompts.")
    correct_prompt: str = Field("correct-1", description="Name of the prompt in telellm/tele_eval/prompts.")


class TeleEval(Settings):
    """Section `tele_eval`: open questions from the corpus, or from a file."""

    path: PathOrUri = Field(
        "",
        description="A set of questions that is there already: a file or folder, here or in a bucket (JSON, JSONL, "
        "Parquet), with the paper's fields (Statement, Answer, id) or telellm's own. Then nothing is written, compared "
        "or checked by a model; rows that are not fit are rejected. Empty: questions are made from the corpus.",
    )
    held_out_share: Share = Field(0.2, description="Share of documents that training never sees.")
    draft: Draft = Draft()  # type: ignore[call-arg]
    distinct: Distinct = Distinct()  # type: ignore[call-arg]
    check: Check = Check()  # type: ignore[call-arg]
