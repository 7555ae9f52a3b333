"""Models of a recipe: the one that is adapted, and the one that is asked."""

from typing import Literal

from pydantic import Field

from telellm.recipe.fields import ASIDE, ModelName, Settings


class Model(Settings):
    """Section `model`: the base model that is adapted."""

    name: ModelName = Field(
        description="A Hugging Face directory or hub name, a .gguf file, or package:MODULE/FILE of an installed one."
    )
    revision: str = Field("main", description="Revision of a hub model (branch, tag or commit).")


class LanguageModel(Settings):
    """Section `lm`: the language model that is asked (screening, questions, judging)."""

    model: ModelName = Field("", description="The model to ask; empty: the base model.")
    revision: str = Field("main", description="Revision of a hub model.")
    endpoint: str = Field("", description="URL of an OpenAI-compatible server (…/v1); empty: in this process.")
    max_concurrency: int = Field(
        32, ge=1, le=4096, description="Requests in flight to an endpoint.", json_schema_extra=ASIDE
    )
    timeout_seconds: float = Field(
        120, gt=0, description="Time for one answer of an endpoint (seconds).", json_schema_extra=ASIDE
    )
    price_in: float = Field(
        0,
        ge=0,
        description="Price of a million tokens that the model reads, in any currency; for the cost in the report.",
        json_schema_extra=ASIDE,
    )
    price_out: float = Field(
        0, ge=0, description="Price of a million tokens that the model writes (as price_in).", json_schema_extra=ASIDE
    )
    batch_size: int = Field(8, ge=1, description="Prompts that an in-process model answers at once.")
    context_tokens: int = Field(2048, ge=128, description="Longest prompt and answer together (tokens).")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number format of an in-process model.")
