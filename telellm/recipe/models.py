"""Models of a recipe: the one that is adapted, the one that is asked, and those that stand beside in a report."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from telellm.recipe.fields import ASIDE, Endpoint, ModelName, Settings

Concurrency = Annotated[
    int, Field(ge=1, le=4096, description="Requests in flight to an endpoint.", json_schema_extra=ASIDE)
]
Timeout = Annotated[
    float, Field(gt=0, description="Time for one answer of an endpoint (seconds).", json_schema_extra=ASIDE)
]


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
    endpoint: Endpoint = Field("", description="URL of an OpenAI-compatible server (…/v1); empty: in this process.")
    max_concurrency: Concurrency = 32
    timeout_seconds: Timeout = 120
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


class ReferenceModel(Settings):
    """Section `evaluation.reference_models.<name>`: a model as it is; the name of a model alone will do as well."""

    model: ModelName = Field(
        min_length=1,
        description="A Hugging Face directory, here or in a bucket, a hub name, a .gguf file or package:MODULE/FILE; "
        "with an endpoint, what the model is called there.",
    )
    revision: str = Field(
        "main",
        description="Revision of a hub model. Of a model behind an endpoint nothing tells when it becomes another one: "
        "a new value here has it asked again.",
    )
    endpoint: Endpoint = Field(
        "", description="URL of an OpenAI-compatible server (…/v1) that has the model; empty: in this process."
    )
    key_variable: str = Field(
        "OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable with the endpoint's key. On a cluster, TELELLM_REFERENCE_KEY is the api-key "
        "of the Secret telellm-reference.",
        json_schema_extra=ASIDE,
    )
    chat: bool = Field(
        True,
        description="Ask for answers through the model's own chat template, if it has one; false for a base model, "
        "which completes the paper's prompt, behind an endpoint through /v1/completions.",
    )
    max_concurrency: Concurrency = 32
    timeout_seconds: Timeout = 120

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_name(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value
