"""Recipes: what is said about a wrong one, and that a right one comes back as it was."""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from telellm.recipe import MAXIMUM_CHARACTERS, Recipe, RecipeError, Settings, load, parse

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
name: small
model: {name: owner/model}
sources:
  one: {category: web, path: raw}
"""


def refusal(text, **options):
    """Return what is said about a recipe that is wrong."""
    with pytest.raises(RecipeError) as caught:
        parse(text, source="my.yaml", **options)
    return str(caught.value)


def all_sections(kind=Settings):
    """Yield every section's class."""
    for each in kind.__subclasses__():
        yield each
        yield from all_sections(each)


@pytest.mark.parametrize(
    ("addition", "said"),
    [
        (
            "trainin: {}",
            'my.yaml: trainin: there is no field "trainin"\n  known fields: name, model, lm, sources, truth, corpus, '
            "tele_eval, training, evaluation, retrieval, study, gate, nightly, notify, retention, cluster, seed\n"
            '  did you mean "training"?',
        ),
        (
            "training: {pretrain: {method: lorra}}",
            'my.yaml: training.pretrain.method: "lorra" is not a method\n  known methods: full, lora, none\n'
            '  did you mean "lora"?',
        ),
        (
            "corpus: {screen: {trusted: [web, wikis]}}",
            'my.yaml: corpus.screen.trusted.1: "wikis" is not a value\n  known values: arxiv, standard, wiki, web\n'
            '  did you mean "wiki"?',
        ),
        (
            "evaluation: {metrics: [perplexity]}",
            'my.yaml: evaluation.metrics.0: "perplexity" is not a metric\n  known metrics: answer_perplexity, '
            'semscore, llm_eval, general, literature\n  did you mean "answer_perplexity"?',
        ),
        (
            "corpus: {clean: {minimum_words: many}}",
            'my.yaml: corpus.clean.minimum_words: "many": Input should be a valid integer, unable to parse string as '
            "an integer\n  Shorter documents are rejected after cleaning (words).",
        ),
        (
            "corpus: {screen: {threshold: 1.5}}",
            "my.yaml: corpus.screen.threshold: 1.5: Input should be less than or equal to 1\n"
            "  Least probability of yes that keeps a document.",
        ),
        (
            "evaluation: {judge: {modl: x}}",
            'my.yaml: evaluation.judge.modl: there is no field "modl"\n  known fields: model, revision, endpoint, '
            "max_concurrency, timeout_seconds, price_in, price_out, batch_size, context_tokens, dtype\n"
            '  did you mean "model"?',
        ),
        ("training: [1]", "my.yaml: training: [1]: Input should be a valid dictionary or instance of Training"),
        ("lm: {timeout_seconds: .nan}", "my.yaml: lm.timeout_seconds: nan: Input should be greater than 0"),
        ("1: 2", "my.yaml: 1: 1: Keys should be strings"),
    ],
)
def test_a_mistake_is_told_with_file_field_value_and_alternatives(addition, said):
    assert refusal(SMALL + addition).startswith(said)


def test_a_mistake_in_a_source_is_told_like_any_other():
    said = refusal(SMALL.replace("category: web, path", "category: wbe, pth"))
    assert 'sources.one.category: "wbe" is not a category\n  known categories: arxiv, standard, wiki, web' in said
    assert 'sources.one.pth: there is no field "pth"\n  known fields: category, path, licence, retrieved_at' in said
    assert "sources.one.path: this field is missing\n  A folder, a file, or s3://bucket/prefix" in said


def test_every_mistake_is_told_at_once():
    said = refusal("name: Not A Name\nsources: {}\nsed: 1")
    assert [line.split(": ")[1] for line in said.splitlines() if line.startswith("my.yaml")] == [
        "name",
        "model",
        "sources",
        "sed",
    ]


@pytest.mark.parametrize("field", ["name", "model", "sources"])
def test_a_field_that_must_be_there_is_missed(field):
    lines = [line for line in SMALL.splitlines() if not line.startswith(field)]
    text = "\n".join(line for line in lines if field != "sources" or not line.startswith(" "))
    assert f"my.yaml: {field}: this field is missing" in refusal(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "my.yaml: a recipe is a mapping of sections, not NoneType"),
        ("# only a comment", "my.yaml: a recipe is a mapping of sections, not NoneType"),
        ("- a\n- b", "my.yaml: a recipe is a mapping of sections, not list"),
        ("name", "my.yaml: a recipe is a mapping of sections, not str"),
        ("a: [b", "my.yaml: not valid YAML: "),
        ("a: b: c", "my.yaml: not valid YAML: "),
        ("\x00", "my.yaml: not valid YAML: "),
        ("a: !!python/object/apply:os.getcwd []", "my.yaml: not valid YAML: could not determine a constructor"),
        ("a: !!int ''", "my.yaml: not valid YAML: "),
        ("a: !!timestamp '2026-99-99'", "my.yaml: not valid YAML: "),
        ("a: " + "9" * 5000, "my.yaml: not valid YAML: "),
        ("[" * 1_500, "my.yaml: not valid YAML: "),
        ("{" * 1_500, "my.yaml: not valid YAML: "),
        ("a: &a [*a]", "my.yaml: not valid YAML: more than 10,000 values"),
        ("x" * (MAXIMUM_CHARACTERS + 1), "my.yaml: 1,048,577 characters are no recipe"),
    ],
)
def test_what_is_no_recipe_is_refused(text, said):
    assert refusal(text).startswith(said)


@settings(max_examples=100)
@given(st.one_of(st.text(max_size=60), st.text("abc:-[]{}&*!<>|%@`'\"\n #?,0123456789.", max_size=60)))
def test_any_text_is_a_recipe_or_a_recipe_error(text):
    for whole in (text, SMALL + text):
        try:
            assert isinstance(parse(whole), Recipe)
        except RecipeError as error:
            assert str(error).startswith("recipe: ")


BOMBS = {
    "lists": "a0: &a0 [lol, lol]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    + "name: *a11",
    "merges": "a0: &a0 {x: 1, y: 2}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)),
    "keys": "a0: &a0 [1, 2]\n"
    + "".join(f"a{n}: &a{n} {{? [{', '.join([f'*a{n - 1}'] * 9)}] : 1}}\n" for n in range(1, 12)),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_of_aliases_is_refused_in_little_time_and_memory(bomb, tmp_path):
    (tmp_path / "bomb.yaml").write_text(BOMBS[bomb])
    code = (
        "import sys, pathlib, telellm.recipe as r\n"
        "try: r.load(pathlib.Path(sys.argv[1]))\nexcept r.RecipeError as e: print(e)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bomb.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)),
    )
    assert "more than 10,000 values, counting each use of an alias" in done.stdout, done.stderr
    assert time.monotonic() - began < 30


def test_an_anchor_that_saves_typing_is_welcome():
    recipe = parse(
        SMALL + "training:\n  pretrain: &how {learning_rate: 1.0e-4, epochs: 1}\n  instruct: {<<: *how, epochs: 3}"
    )
    assert (recipe.training.instruct.learning_rate, recipe.training.instruct.epochs) == (1e-4, 3)


def test_a_long_value_is_shortened_in_the_message():
    said = refusal(SMALL + f"training: {{pretrain: {{method: {'x' * 5000}}}}}")
    assert len(said) < 400 and "known methods: full, lora" in said


def test_a_number_with_an_exponent_and_a_date_are_what_they_look_like():
    recipe = parse(
        SMALL.replace("raw}", "raw, retrieved_at: 2026-11-01}") + "training: {pretrain: {learning_rate: 2e-5}}"
    )
    assert recipe.sources["one"].retrieved_at == "2026-11-01"
    assert recipe.training.pretrain.learning_rate == 2e-5


def test_a_recipe_that_is_not_there_is_told_with_those_that_are(tmp_path):
    (tmp_path / "nightly.yaml").write_text(SMALL)
    with pytest.raises(RecipeError, match=r"nigtly.yaml: there is no such recipe\n  recipes there: .*nightly.yaml"):
        load(tmp_path / "nigtly.yaml")
    with pytest.raises(RecipeError, match="the recipe cannot be read"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: größe".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin.yaml: the recipe cannot be read"):
        load(tmp_path / "latin.yaml")


def test_paths_are_relative_to_the_recipe_and_those_of_set_to_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "recipes" / "small.yaml").write_text(
        SMALL + "truth: ../truth\ncorpus: {decontaminate: {benchmarks: [a.jsonl, 's3://b/c']}}"
    )
    recipe = load(tmp_path / "recipes" / "small.yaml")
    assert recipe.sources["one"].path == str(tmp_path / "recipes" / "raw")
    assert recipe.truth == str(tmp_path / "truth")
    assert recipe.corpus.decontaminate.benchmarks == [str(tmp_path / "recipes" / "a.jsonl"), "s3://b/c"]
    assert recipe.model.name == "owner/model"
    changed = load(
        tmp_path / "recipes" / "small.yaml",
        [
            "truth=here",
            "sources.one.path=./raw",
            "sources.two={category: wiki, path: dump}",
            "corpus.decontaminate.benchmarks=[b.jsonl]",
            "model.name=./model",
            "evaluation.embedder=tiny.gguf",
        ],
    )
    assert changed.truth == str(tmp_path / "work" / "here")
    assert changed.sources["one"].path == str(tmp_path / "work" / "raw")
    assert changed.sources["two"].path == str(tmp_path / "work" / "dump")
    assert changed.corpus.decontaminate.benchmarks == [str(tmp_path / "work" / "b.jsonl")]
    assert changed.model.name == str(tmp_path / "work" / "model")
    assert changed.evaluation.embedder == str(tmp_path / "work" / "tiny.gguf")


def test_a_word_of_set_that_is_also_a_file_stays_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("web", "night", "full"):
        (tmp_path / name).mkdir()
    recipe = parse(SMALL, changes=["name=night", "corpus.screen.trusted=[web]", "training.pretrain.method=full"])
    assert (recipe.name, recipe.corpus.screen.trusted, recipe.training.pretrain.method) == ("night", ["web"], "full")


def test_set_changes_what_is_nested_and_what_is_not_there_yet():
    recipe = parse(
        SMALL, changes=["training.pretrain.epochs=3", "corpus.clean.rules=[a, b]", "lm.endpoint=http://x/v1"]
    )
    assert recipe.training.pretrain.epochs == 3
    assert recipe.corpus.clean.rules == ["a", "b"]
    assert recipe.lm.endpoint == "http://x/v1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("epochs", "--set epochs: write --set section.field=value"),
        ("=1", "--set =1: write --set section.field=value"),
        ("seed=[1", "--set seed=[1: not valid YAML"),
        ("name.first=1", '--set name.first=1: "name" is not a section'),
        ("trainin.epochs=1", 'my.yaml with --set: trainin: there is no field "trainin"'),
        ("training.pretrain.epoch=1", 'did you mean "epochs"?'),
        ("training.pretrain.epochs=-1", "training.pretrain.epochs: -1: Input should be greater than 0"),
    ],
)
def test_a_wrong_set_is_told_like_a_wrong_recipe(change, said):
    assert said in refusal(SMALL, changes=[change])


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_comes_back_as_it_was(path):
    recipe = load(path)
    assert parse(recipe.to_yaml()) == recipe


PRINTABLE = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn", "Zl", "Zp"], exclude_characters="\ufeff"), max_size=20
)


@settings(max_examples=25)
@given(
    epochs=st.floats(0.01, 100),
    rate=st.floats(1e-9, 0.9),
    seed=st.integers(0, 2**63),
    rules=st.lists(PRINTABLE, max_size=4),
    licence=PRINTABLE,
    flag=st.booleans(),
)
def test_a_resolved_recipe_comes_back_as_it_was(epochs, rate, seed, rules, licence, flag):
    recipe = parse(SMALL)
    pretrain = recipe.training.pretrain.model_copy(
        update={"epochs": epochs, "learning_rate": rate, "activation_checkpointing": flag}
    )
    source = recipe.sources["one"].model_copy(update={"licence": licence})
    recipe = recipe.model_copy(
        update={
            "seed": seed,
            "training": recipe.training.model_copy(update={"pretrain": pretrain}),
            "sources": {"one": source},
            "corpus": recipe.corpus.model_copy(
                update={"clean": recipe.corpus.clean.model_copy(update={"rules": rules})}
            ),
        }
    )
    assert parse(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    "section", sorted(set(all_sections()), key=lambda kind: kind.__name__), ids=lambda k: k.__name__
)
def test_every_field_has_a_description(section):
    assert section.__doc__
    for name, field in section.model_fields.items():
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        assert is_section or (field.description and len(field.description) > 10), name


def test_a_recipe_cannot_be_changed_afterwards(recipe):
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3


def test_a_section_is_found_by_its_path(recipe):
    assert recipe.section("corpus.clean") is recipe.corpus.clean
    assert recipe.section("sources.one.category") == "web"


def test_a_change_to_nothing_empties_a_field(recipe_with):
    assert recipe_with("truth=").truth == ""


def test_benchmarks_have_names_of_their_own_and_known_fields(tmp_path):
    text = "name: a\nmodel: {name: m}\nsources: {one: {category: web, path: raw}}\nevaluation: {multiple_choice: [%s]}"
    with pytest.raises(RecipeError, match="two benchmarks are called quiz"):
        parse(text % "{name: quiz, path: a}, {name: quiz, path: b}", folder=tmp_path)
    with pytest.raises(RecipeError, match=r'there is no field "form"\n  known fields: name, path, format'):
        parse(text % "{name: quiz, path: a, form: x}", folder=tmp_path)
    recipe = parse(text % "{name: quiz, path: a.zip, format: teleqna}", folder=tmp_path)
    assert recipe.evaluation.multiple_choice[0].path == str(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("addition", "said"),
    [
        (
            "gate: {losses: {general.perplexiti: 0.5}}",
            'gate.losses: "general.perplexiti" is not a score of this recipe\n  known scores: answer_perplexity.',
        ),
        (
            "gate: {metric: multiple_choice.quiz.accuracy}",
            'gate.metric: "multiple_choice.quiz.accuracy" is not a score of this recipe\n',
        ),
    ],
)
def test_the_gate_asks_only_for_scores_that_the_recipe_knows(addition, said):
    assert said in refusal(SMALL + addition)
    assert 'did you mean "general.perplexity"?' in refusal(SMALL + "gate: {losses: {general.perplexiti: 0.5}}")
    quiz = (
        "evaluation: {multiple_choice: [{name: quiz, path: quiz}]}\n"
        "gate: {metric: multiple_choice.quiz.accuracy, losses: {general.perplexity: 1}}"
    )
    assert parse(SMALL + quiz).gate.losses == {"general.perplexity": 1.0}


def test_a_loss_of_general_ability_is_something_that_the_gate_may_limit():
    section = "evaluation: {forgetting: [{task: hellaswag, path: s3://raw/hellaswag}]}\n"
    recipe = parse(SMALL + section + "gate: {losses: {forgetting.hellaswag.accuracy: 0.02}}")
    assert recipe.gate.losses == {"forgetting.hellaswag.accuracy": 0.02}
    assert '"forgetting.mmlu.accuracy" is not a score' in refusal(
        SMALL + section + "gate: {losses: {forgetting.mmlu.accuracy: 0.02}}"
    )
    said = refusal(SMALL + "evaluation: {forgetting: [{task: helaswag, path: a}]}")
    assert 'evaluation.forgetting.0.task: "helaswag" is not a task' in said and 'did you mean "hellaswag"?' in said
    assert "mmlu is named twice" in refusal(
        SMALL + "evaluation: {forgetting: [{task: mmlu, path: a}, {task: mmlu, path: b}]}"
    )
    assert 'there is no field "shots"\n  known fields: task, path, few_shot' in refusal(
        SMALL + "evaluation: {forgetting: [{task: mmlu, path: a, shots: 3}]}"
    )


ADDRESS = "https://user:very-secret@host/v1"


@pytest.mark.parametrize(
    "change",
    [
        *(f"lm.endpoint={ADDRESS}", f"tele_eval.distinct.embedder_endpoint={ADDRESS}"),
        f"evaluation.reference_models.v={{model: x, endpoint: '{ADDRESS}'}}",
    ],
)
def test_an_address_with_a_password_is_refused_without_showing_it(change: str) -> None:
    with pytest.raises(RecipeError, match="a user or password stands in this address") as caught:
        parse(SMALL, changes=[change])
    assert "secret" not in str(caught.value)


def test_a_reference_model_may_be_a_name_or_a_section(recipe_with: Callable[..., Recipe]) -> None:
    changes = (
        "evaluation.reference_models.vendor=owner/chat",
        "evaluation.reference_models.served={model: big, endpoint: 'http://h/v1'}",
    )
    models = recipe_with(*changes).evaluation.reference_models
    assert (models["vendor"].model, models["vendor"].endpoint, models["vendor"].chat) == ("owner/chat", "", True)
    assert models["served"].endpoint == "http://h/v1"
    assert parse(recipe_with(*changes).to_yaml()).evaluation.reference_models == models


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["evaluation.reference_models.vendor.modle=x"], 'did you mean "model"?'),
        (["evaluation.reference_models.base=owner/chat"], "base is the name of a model of the run"),
        (["gate.reference={nam: vendor}"], 'did you mean "name"?'),
        (["gate.reference.name=vendor"], '"vendor" is no model of evaluation.reference_models'),
        (
            ["evaluation.reference_models.v=a/b", "gate.reference={name: v, metric: semscore}"],
            'did you mean "semscore.mean"?',
        ),
    ],
)
def test_what_is_wrong_with_a_reference_model_is_said(
    recipe_with: Callable[..., Recipe], changes: list[str], said: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_with(*changes)
    assert said in str(caught.value)
