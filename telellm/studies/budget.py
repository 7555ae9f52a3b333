"""Budget: what the arms of a study will take by the estimate of `telellm plan`, and whether that is allowed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from telellm.plan import estimate
from telellm.recipe import Recipe, RecipeError
from telellm.store import Store
from telellm.studies.trials import Trial

OF_ARMS = ("pretrain", "instruct", "evaluate")
"""Steps of a plan that an arm has for itself; corpus and questions are the study's."""


@dataclass(frozen=True)
class Cost:
    """The estimate of a trial."""

    trial: str
    gpu_hours: float
    tokens: int
    """Tokens that it trains on."""


def costs_of(trials: Iterable[Trial], store: Store | None) -> list[Cost]:
    """Return what each trial will take; pretraining that several share is the first one's."""
    seen: set[str] = set()
    found = []
    for trial in trials:
        work = {work.name: work for work in estimate(trial.recipe, store).work if work.name in OF_ARMS}
        if not trial.pretraining or trial.pretraining in seen:
            work.pop("pretrain", None)
        seen.add(trial.pretraining)
        trained = [one.tokens for name, one in work.items() if name != "evaluate"]
        found.append(Cost(trial.name, sum(one.gpu_hours for one in work.values()), sum(trained)))
    return found


def refuse_over_budget(recipe: Recipe, costs: Sequence[Cost]) -> float:
    """Return the hours of all trials; raises `RecipeError` with what each takes where that is over the budget."""
    total, budget = sum(cost.gpu_hours for cost in costs), recipe.study.budget_gpu_hours
    if budget and total > budget:
        width = max(len(cost.trial) for cost in costs)
        rows = [f"  {cost.trial:<{width}}  {cost.gpu_hours:10,.3g} GPU hours  {cost.tokens:,} tokens" for cost in costs]
        raise RecipeError(
            "\n".join(
                [
                    f"study.budget_gpu_hours: {budget:,g}: the {len(costs)} arms and seeds would take {total:,.3g} GPU "
                    "hours by the estimate of telellm plan:",
                    *rows,
                    "  take out arms or seeds, lower training.pretrain.epochs, training.pretrain.max_steps or "
                    "training.pack.share, choose a smaller model, or allow more",
                ]
            )
        )
    return total
