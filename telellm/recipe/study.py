"""Section `study`: the arms of an experiment, each a change to the recipe, and how they are compared."""

from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from telellm.recipe.fields import Here, Settings, absolute

CHANGEABLE = ("model.", "training.", "cluster.training.", "cluster.evaluation.", "evaluation.batch_size")
"""What an arm may change: documents, questions and metrics are those of all arms, or they could not be compared."""
MAXIMUM_ARMS = 64
"""Arms × seeds; each is a task of a pipeline, and a Kubeflow run is one object of limited size."""


def _change(value: Any, info: ValidationInfo) -> Any:
    """Check one change; a path that begins with a dot is made absolute, relative to the recipe's folder."""
    if not isinstance(value, str):
        return value
    field, equals, given = value.partition("=")
    if not equals or not field:
        raise ValueError("write section.field=value, as after --set")
    if not field.startswith(CHANGEABLE):
        raise ValueError(
            "an arm may change " + ", ".join(name.rstrip(".") for name in CHANGEABLE) + "; documents, questions and "
            "metrics are those of all arms, or they could not be compared"
        )
    if given.startswith(("./", "../", "~")):
        given = absolute(Here(given) if isinstance(value, Here) else given, info)
    return f"{field}={given}"


Change = Annotated[str, BeforeValidator(_change)]
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]


class Study(Settings):
    """Section `study`: what the pipeline of that name trains and compares."""

    arms: dict[Label, list[Change]] = Field(
        {},
        description="Arms by name (lower case, digits, hyphens), each a list of changes to the recipe such as "
        "training.pretrain.method=lora; an empty list is the recipe as it is.",
    )
    factors: dict[Label, dict[Label, list[Change]]] = Field(
        {},
        description="Factors by name, each with levels by name and their changes. Every combination of levels is an "
        "arm: its name is that of the levels, joined by hyphens.",
    )
    reference: str = Field("", description="The arm with which every other is compared; empty: the first.")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [],
        description="Every arm is trained with each of these seeds (order of sequences, dropout, low-rank updates); "
        "empty: once, with the recipe's.",
    )
    candidate: Literal["instruct", "pretrained"] = Field(
        "instruct",
        description="The model of an arm that is compared; where an arm does not make it, the one before it.",
    )
    gain: str = Field(
        "answer_perplexity.corpus",
        min_length=1,
        description="Metric in which arms are compared, by its name in scores.json, as in semscore.mean or "
        "multiple_choice.<benchmark>.accuracy.",
    )
    forgetting: str = Field(
        "general.perplexity",
        description="Metric of general ability that shows what was forgotten, by its name in scores.json; empty: none.",
    )
    metrics: list[Annotated[str, Field(min_length=1)]] = Field(
        [],
        description="Other metrics in which arms are compared, by their names in scores.json, as in "
        "literature.perplexity or literature.terms.exact; what they rest on is named in evaluation.metrics. The more "
        "there are, the wider are the intervals: all of them hold together.",
    )
    split: Literal["all", "held-out", "train"] = Field(
        "all", description="Questions that count: all, or those about documents that training never saw, or saw."
    )
    budget_gpu_hours: float = Field(
        0, ge=0, description="GPU hours that all arms may take by the estimate of `telellm plan`; 0: no limit."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> "Study":
        arms = self.all_arms()
        if not arms:
            if self.reference:
                raise ValueError(f'reference: there are no arms, so none is called "{self.reference}"')
            return self
        if self.reference and self.reference not in arms:
            raise ValueError(f'reference: no arm is called "{self.reference}"; arms: {", ".join(arms)}')
        if twice := sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1}):
            raise ValueError(f"seeds: {', '.join(map(str, twice))} is there twice")
        if (number := len(arms) * max(1, len(self.seeds))) > MAXIMUM_ARMS:
            raise ValueError(f"{number} arms and seeds are more than {MAXIMUM_ARMS}; divide the study")
        return self

    def all_arms(self) -> dict[str, list[str]]:
        """Return every arm's name and changes: those of `arms`, then the combinations of `factors`.

        Raises `ValueError` where two arms have one name, or an arm changes a field twice.
        """
        found = {str(name): list(changes) for name, changes in self.arms.items()}
        levels = [list(levels.items()) for levels in self.factors.values()]
        for chosen in product(*levels) if levels else ():
            name = "-".join(level for level, _ in chosen)
            if name in found:
                raise ValueError(f'two arms are called "{name}"; give arms and levels other names')
            found[name] = [change for _, changes in chosen for change in changes]
        for name, changes in found.items():
            fields = [change.partition("=")[0] for change in changes]
            if twice := [field for field in fields if fields.count(field) > 1]:
                raise ValueError(f"the arm {name} changes {twice[0]} twice")
        return found

    @property
    def reference_arm(self) -> str:
        """The arm with which every other is compared."""
        return self.reference or next(iter(self.all_arms()))
