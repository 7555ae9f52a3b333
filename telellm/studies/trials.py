"""Trials: the arms of a study with each of its seeds, every one a run of its own with a recipe of its own.

They lie in `runs/<study>/arms/<arm>-<seed>`. Corpus, questions and training text are the study's, so that all arms are
asked the same questions and none of it is made twice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from telellm.recipe import LanguageModel, Recipe, RecipeError, vary
from telellm.runs import share
from telellm.stage import digest_of
from telellm.store import Store

JOBS = ("pack", "pretrain", "instruct", "evaluate")
"""Stages of a trial; on a cluster all of them are jobs: what starts them takes no GPU."""
OUTCOMES = ("done", "failed", "unfinished")


@dataclass(frozen=True)
class Trial:
    """One arm with one seed."""

    arm: str
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """Its name within the study, as in `lora-17`."""
        return f"{self.arm}-{self.seed}"

    def run(self, study: str) -> str:
        """Return the name of its run in the store."""
        return f"{study}/arms/{self.name}"

    @cached_property
    def base(self) -> str:
        """What its base model's scores depend on."""
        return digest_of(self.recipe.model, self.recipe.evaluation, self.recipe.lm)

    @cached_property
    def packing(self) -> str:
        """What its packed text depends on; empty where it needs none."""
        training = self.recipe.training
        return "" if training.pretrain.method == "none" else digest_of(self.recipe.model, training.pack)

    @cached_property
    def pretraining(self) -> str:
        """What its pretraining depends on, beside the text; empty where there is none."""
        training = self.recipe.training
        return self.packing and digest_of(self.packing, training.pretrain, training.lora)


def trials_of(recipe: Recipe) -> list[Trial]:
    """Return the trials of a study's recipe, arm by arm, the reference first.

    Raises `RecipeError` where the recipe describes no study.
    """
    study = recipe.study
    arms = study.all_arms()
    if not arms:
        raise RecipeError(
            "study.arms: this recipe has no arms; give it some, as recipes/studies/ do, or run another pipeline"
        )
    first = study.reference_arm
    names = [first, *(name for name in arms if name != first)]
    return [
        Trial(name, seed, _recipe_of(recipe, name, arms[name], seed if study.seeds else None))
        for name in names
        for seed in study.seeds or [recipe.training.pretrain.seed]
    ]


def _recipe_of(recipe: Recipe, arm: str, changes: Iterable[str], seed: int | None) -> Recipe:
    """Return the recipe of a trial; who asks and judges stays the same where an arm changes the base model."""
    more = [*changes, "gate.reference=null", "evaluation.reference_models={}"]  # a study does not ask them
    if seed is not None:
        more += [f"training.{stage}.seed={seed}" for stage in ("pretrain", "instruct")]
    if any(change.startswith("model.") for change in more):
        more += _asked("lm", recipe.lm, recipe)
        if recipe.evaluation.judge is not None:
            more += _asked("evaluation.judge", recipe.evaluation.judge, recipe)
    if recipe.cluster.enabled:
        more.append(f"cluster.stages=[{', '.join(JOBS)}]")
    return vary(recipe, more, f"study, arm {arm}")


def _asked(section: str, model: LanguageModel, recipe: Recipe) -> list[str]:
    if model.model or model.endpoint:
        return []
    return [f"{section}.model={recipe.model.name}", f"{section}.revision={recipe.model.revision}"]


def write_trials(store: Store, study: str, trials: Iterable[Trial]) -> None:
    """Write each trial's recipe to its run; on a cluster with addresses in the store of what only this machine has."""
    for trial in trials:
        recipe = share(trial.recipe, store) if trial.recipe.cluster.enabled else trial.recipe
        store.write(f"runs/{trial.run(study)}/recipe.yaml", recipe.to_yaml().encode())


def groups_of(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Return the trials in groups that share their pretraining: within a group it is done once, by the first."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.pretraining or trial.name, []).append(trial)
    return list(groups.values())


def read_outcome(store: Store, study: str, trial: Trial) -> dict[str, Any]:
    """Return what became of a trial: `state` (done, failed, unfinished), and of a failed one `step` and `reason`."""
    return store.read_json(_outcome(study, trial)) or {"state": "unfinished"}


def write_outcome(store: Store, study: str, trial: Trial, outcome: Mapping[str, Any]) -> None:
    """Write down what became of a trial."""
    assert outcome["state"] in OUTCOMES
    store.write_json(_outcome(study, trial), outcome)


def _outcome(study: str, trial: Trial) -> str:
    return f"runs/{trial.run(study)}/outcome.json"
