"""Section `tele_eval`: open questions from the corpus."""

from pydantic import Field

from telellm.recipe.fields import Settings, Share


class TeleEval(Settings):
    """Section `tele_eval`: open questions from the corpus."""

    passages_per_document: int = Field(
        3, ge=1, description="Passages of a document that are asked about, one question each."
    )
    passage_words: int = Field(80, ge=20, description="Length of the passage that the model reads (words).")
    held_out_share: Share = Field(0.2, description="Share of documents that training never sees.")
    minimum_answer_words: int = Field(8, ge=1, description="Shorter answers are rejected (words).")
    maximum_answer_words: int = Field(45, ge=5, description="Longer answers are rejected (words).")
    minimum_overlap: Share = Field(
        0.8, description="Least share of the answer's content words that the passage must contain."
    )
    support_threshold: Share = Field(
        0.5,
        description="Least probability, by the model, that the passage supports the answer to the question; 0: not "
        "asked (a model of 135M parameters cannot tell).",
    )
    prompt: str = Field("question-1", description="Name of the prompt for questions in telellm/tele_eval/prompts.")
    support_prompt: str = Field("support-1", description="Name of the prompt for support in telellm/tele_eval/prompts.")
    max_question_tokens: int = Field(48, ge=16, description="Longest question that is generated (tokens).")
