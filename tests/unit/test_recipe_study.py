"""The arms of a study are recipes of their own, checked as soon as the recipe is read."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.recipe import RecipeError, Study, load, parse, vary
from telellm.recipe.study import CHANGEABLE

SMALL = "name: small\nmodel: {name: owner/model}\nsources:\n  one: {category: web, path: raw}\n"


def refusal(study: str, folder=None) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(f"{SMALL}study: {study}", source="my.yaml", folder=folder)
    return str(caught.value)


def test_an_arm_is_the_recipe_with_its_changes_and_without_the_study():
    recipe = parse(
        SMALL + "study: {arms: {full: [], lora: [training.pretrain.method=lora, training.lora.rank=8]}, seeds: [1, 2]}"
    )
    arms = {name: vary(recipe, changes) for name, changes in recipe.study.all_arms().items()}
    assert arms["full"] == recipe.model_copy(update={"study": Study()})
    assert (arms["lora"].training.pretrain.method, arms["lora"].training.lora.rank) == ("lora", 8)
    assert recipe.study.reference_arm == "full"
    assert parse(recipe.to_yaml()) == recipe


def test_every_combination_of_levels_is_an_arm():
    recipe = parse(
        SMALL
        + "study:\n  reference: full-all\n  factors:\n"
        + "    method: {full: [], lora: [training.pretrain.method=lora]}\n"
        + "    share: {all: [], half: [training.pack.share=0.5]}\n"
    )
    arms = recipe.study.all_arms()
    assert list(arms) == ["full-all", "full-half", "lora-all", "lora-half"]
    assert arms["lora-half"] == ["training.pretrain.method=lora", "training.pack.share=0.5"]


@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True),
        st.dictionaries(st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True), st.just([]), min_size=1, max_size=3),
        max_size=3,
    )
)
def test_names_of_arms_are_labels_and_as_many_as_there_are_combinations(factors):
    number = 1
    for levels in factors.values():
        number *= len(levels)
    arms = Study(factors=factors).all_arms()
    assert len(arms) == (number if factors else 0)
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) for name in arms)


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("{arms: {a: [training.lora.rnk=2]}}", 'my.yaml: study, arm a: training.lora.rnk: there is no field "rnk"'),
        ("{arms: {a: [training.lora.rank=0]}}", "my.yaml: study, arm a: training.lora.rank: 0: Input should be"),
        ("{arms: {a: [training.lora.rank]}}", "write section.field=value"),
        ("{arms: {a: [corpus.screen.threshold=0.9]}}", "an arm may change model, training, "),
        ("{arms: {A_b: []}}", "study.arms.A_b.[key]"),
        ("{arms: {a: []}, reference: b}", 'reference: no arm is called "b"; arms: a'),
        ("{reference: b}", "reference: there are no arms"),
        ("{arms: {a: []}, seeds: [1, 1]}", "seeds: 1 is there twice"),
        ("{arms: {a: [], x: []}, factors: {f: {a: []}}}", 'two arms are called "a"'),
        (
            "{factors: {f: {a: [training.lora.rank=2]}, g: {b: [training.lora.rank=4]}}}",
            "the arm a-b changes training.lora.rank twice",
        ),
        ("{arms: {a: []}, seeds: [" + ", ".join(map(str, range(65))) + "]}", "65 arms and seeds are more than 64"),
        ("{arms: {a: [training.instruct.method=chat-vector]}}", "chat-vector needs `vendor`"),
    ],
)
def test_a_mistake_in_an_arm_is_told_before_anything_runs(study, said):
    assert said in refusal(study)


def test_paths_of_arms_are_relative_to_the_recipe(tmp_path):
    text = SMALL + "study: {arms: {a: [training.instruct.data=./talk.jsonl, model.name=../model]}}"
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "r.yaml").write_text(text)
    (changes,) = load(tmp_path / "studies" / "r.yaml").study.all_arms().values()
    assert changes == [
        f"training.instruct.data={tmp_path}/studies/talk.jsonl",
        f"model.name={tmp_path}/model",
    ]


def test_a_level_is_added_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = SMALL + "study: {factors: {model: {small: []}}}"
    recipe = parse(text, folder=tmp_path / "else", changes=["study.factors.model.second=[model.name=./other]"])
    assert recipe.study.all_arms() == {"small": [], "second": [f"model.name={tmp_path}/other"]}


def test_what_an_arm_may_change_is_there():
    recipe = parse(SMALL)
    for field in CHANGEABLE:
        recipe.section(field.rstrip("."))


def test_a_metric_that_no_arm_has_is_refused_before_anything_runs():
    arms = "arms: {a: []}"
    said = refusal(f"{{{arms}, metrics: [literature.perplexity]}}")
    assert said == "my.yaml: study.metrics: literature.perplexity is not measured; add literature to evaluation.metrics"
    assert 'study.gain: "semscore.meen" is not a score of this recipe' in refusal(f"{{{arms}, gain: semscore.meen}}")
    assert 'did you mean "semscore.mean"?' in refusal(f"{{{arms}, metrics: [semscore.meen]}}")
    literature = "evaluation: {metrics: [answer_perplexity, literature]}\n"
    recipe = parse(f"{SMALL}{literature}study: {{{arms}, metrics: [literature.terms.exact]}}")
    assert recipe.study.metrics == ["literature.terms.exact"]
