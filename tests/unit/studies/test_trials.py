"""Trials are recipes of their own, in runs of their own, that keep what they need."""

from datetime import date
from pathlib import Path

import pytest

from telellm.recipe import RecipeError, Retention, parse
from telellm.retention import sweep
from telellm.runs import open_run
from telellm.stage import read_notes
from telellm.store import Store
from telellm.studies.trials import groups_of, read_outcome, trials_of, write_trials
from tests.unit.studies.small_study import RECIPE, Bodies, begin, go

SMALL = RECIPE.partition("study:")[0]


def test_every_arm_has_a_trial_for_each_seed_and_the_reference_comes_first() -> None:
    recipe = parse(SMALL + "study: {arms: {a: [], b: [training.lora.rank=2]}, reference: b, seeds: [3, 4]}")
    trials = trials_of(recipe)
    assert [trial.name for trial in trials] == ["b-3", "b-4", "a-3", "a-4"]
    for trial in trials:
        training = trial.recipe.training
        assert training.pretrain.seed == training.instruct.seed == trial.seed
        assert trial.recipe.seed == recipe.seed, "the seed of corpus, questions and packing stays"
        assert not trial.recipe.study.all_arms()
    assert len({trial.packing for trial in trials}) == 1
    assert [len(group) for group in groups_of(trials)] == [1, 1, 1, 1]


def test_without_seeds_a_trial_has_those_of_the_recipe() -> None:
    recipe = parse(SMALL + "study: {arms: {a: []}}", changes=["training.instruct.seed=9"])
    (trial,) = trials_of(recipe)
    assert (trial.seed, trial.recipe.training.instruct.seed) == (recipe.training.pretrain.seed, 9)


def test_who_asks_and_judges_stays_when_the_base_model_changes() -> None:
    recipe = parse(SMALL + "study: {arms: {a: [], b: [model.name=owner/b]}}")
    first, second = trials_of(recipe)
    assert (first.recipe.lm.model, second.recipe.lm.model) == ("", "owner/small")
    named = parse(SMALL + "study: {arms: {b: [model.name=owner/b]}}", changes=["lm.model=owner/judge"])
    assert trials_of(named)[0].recipe.lm.model == "owner/judge"


def test_on_a_cluster_a_trial_does_everything_by_jobs() -> None:
    recipe = parse(SMALL + "study: {arms: {a: []}}", changes=["cluster.enabled=true"])
    assert trials_of(recipe)[0].recipe.cluster.stages == ["pack", "pretrain", "instruct", "evaluate"]


def test_a_recipe_without_arms_is_no_study() -> None:
    with pytest.raises(RecipeError, match=r"study\.arms: this recipe has no arms"):
        trials_of(parse(SMALL))


def test_without_pretraining_a_trial_is_a_group_of_its_own() -> None:
    arms = "{a: [training.pretrain.method=none], b: [training.pretrain.method=none, training.lora.rank=2]}"
    trials = trials_of(parse(SMALL + f"study: {{arms: {arms}}}"))
    assert [trial.packing for trial in trials] == ["", ""]
    assert len(groups_of(trials)) == 2


def test_a_trials_recipe_is_found_in_its_run(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    (first, *_) = trials = trials_of(parse(RECIPE))
    write_trials(store, "s", trials)
    _, name, recipe = open_run(f"{store.uri}/runs/s/arms/{first.name}")
    assert (name, recipe) == (f"s/arms/{first.name}", first.recipe)
    assert read_outcome(store, "s", first) == {"state": "unfinished"}


def test_a_night_removes_nothing_that_a_trial_needs(bodies: Bodies, tmp_path: Path) -> None:
    store, address, documents, questions = begin(tmp_path)
    go(address, documents, questions)
    store.write("packed/nobody/data/x.parquet", b"x")
    for day in (1, 20):
        sweep(store, "small", Retention(unused_days=7), date(2026, 11, day))
    assert not store.exists("packed/nobody/data/x.parquet")
    for trial in trials_of(parse(RECIPE)):
        notes = read_notes(store, trial.run("s"))
        assert len(notes) == 4 and all(store.manifest(note["output"]) for note in notes.values())


def test_a_study_asks_no_reference_models() -> None:
    changes = ["evaluation.reference_models.vendor=owner/chat", "gate.reference.name=vendor"]
    (trial,) = trials_of(parse(SMALL + "study: {arms: {a: []}}", changes=changes))
    assert trial.recipe.evaluation.reference_models == {} and trial.recipe.gate.reference is None
