"""Sections `gate`, `nightly`, `notify` and `retention`: what a night decides, tells and removes."""

from typing import Annotated, Literal

from pydantic import Field

from telellm.recipe.fields import Settings


class GateReference(Settings):
    """Section `gate.reference`: a reference model that the candidate must not fall short of."""

    name: str = Field(description="Its name in evaluation.reference_models.")
    metric: str = Field("semscore.mean", description="Score in which the two are compared, over all questions.")
    at_least: float = Field(
        0,
        description="Gain over the reference that the whole paired interval must reach (in the score's own unit); "
        "below 0 it is a loss that is accepted.",
    )


class Gate(Settings):
    """Section `gate`: when a night's model becomes production."""

    candidate: Literal["instruct", "pretrained"] = Field(
        "instruct", description="The model of a run that becomes a version, and is served."
    )
    metric: str = Field(
        "answer_perplexity.corpus",
        description="Score in which it must be better than production; on the first night, than the base model. "
        "docs/evaluation.md names all.",
    )
    split: Literal["all", "held-out", "train"] = Field(
        "all", description="Questions that count: all, or those about documents that training never saw, or saw."
    )
    minimum_gain: float = Field(
        0, ge=0, description="Gain that the whole interval must exceed (in the score's own unit)."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the paired interval.")
    minimum_questions: int = Field(30, ge=2, description="Fewer questions decide nothing.")
    losses: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {"semscore.mean": 0.05},
        description="Other scores, each with the greatest loss that is accepted, both against production and against "
        "the base model: small losses must not add up over nights. Any that is measured: general.perplexity, "
        "literature.terms.exact, forgetting.TASK.accuracy, multiple_choice.NAME.accuracy, …",
    )
    reference: GateReference | None = Field(
        None, description="A reference model that it must not fall short of; empty: none."
    )


class Nightly(Settings):
    """Section `nightly`: what the pipeline of that name does beside what the other sections say."""

    train_from: Literal["base", "production"] = Field(
        "base",
        description="Pretraining starts from the base model, or goes on from the pretrained model of the version in "
        "production.",
    )
    train_on: Literal["snapshot", "new"] = Field(
        "snapshot",
        description="Pretraining reads the whole training text, or only the documents in it that the version in "
        "production was not trained on, and a sample of the others; `new` is meant for train_from: production.",
    )
    old_share: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="With train_on new: share of the characters trained on that is a sample of old documents.",
    )


class Notify(Settings):
    """Section `notify`: a message to a webhook when the gate has decided."""

    variable: str = Field(
        "TELELLM_WEBHOOK_URL",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable with the webhook's URL; where it is not set, no message is sent.",
    )
    format: Literal["json", "slack"] = Field("json", description="Everything as JSON, or text that Slack shows.")
    link: str = Field(
        "", description="Address under which a browser finds the store's files, for links; empty: their address there."
    )


class Retention(Settings):
    """Section `retention`: what a night removes before it begins; production loses nothing that it needs."""

    versions: int = Field(
        5, ge=1, description="Versions that are kept: the one in production, and those before it, to roll back to."
    )
    refused_days: int = Field(
        14, ge=0, description="Time for which versions are kept that are not among these, refused ones too (days)."
    )
    runs_days: int = Field(14, ge=0, description="Time for which a night's run and its outputs are kept (days).")
    unused_days: int = Field(
        7,
        ge=1,
        description="Time for which outputs and checkpoints are kept that no run and no version needs (days); it must "
        "be longer than the longest stage takes.",
    )
