"""What can be known to fail before anything runs."""

import pytest

from telellm.checks import check, find_away
from telellm.cli import main
from telellm.recipe import RecipeError, parse

SMALL = "name: small\nmodel: {name: ./model}\nsources:\n  one: {category: web, path: raw}\n"


@pytest.fixture
def folder(tmp_path):
    for name in ("raw", "model", "replay", "embedder"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "replay" / "general.txt").write_text("The river rose in spring.")
    (tmp_path / "instructions.jsonl").write_text("")
    return tmp_path


def test_a_recipe_whose_files_are_there_passes(folder):
    check(parse(SMALL + "evaluation: {embedder: ./embedder}\ntraining: {pack: {replay: replay}}", folder=folder))


def test_every_file_that_is_missing_is_named_with_what_is_there(folder):
    text = SMALL.replace("path: raw", "path: rwa") + (
        "truth: nowhere/truth\ncorpus: {decontaminate: {benchmarks: [a.jsonl]}}\n"
        "training: {pack: {replay: instructions.jsonl/x}, instruct: {data: i.jsonl}}\n"
        "evaluation: {embedder: ./none, multiple_choice: [{name: quiz, path: q.zip}],\n"
        "  forgetting: [{task: mmlu, path: mmul}]}\n"
    )
    with pytest.raises(RecipeError) as caught:
        check(parse(text, folder=folder))
    said = str(caught.value)
    for field in (
        "sources.one.path",
        "truth",
        "training.pack.replay",
        "training.instruct.data",
        "corpus.decontaminate.benchmarks",
        "evaluation.embedder",
        "evaluation.multiple_choice: quiz",
        "evaluation.forgetting: mmlu",
    ):
        assert f"{field}: " in said
    assert (
        f"sources.one.path: {folder}/rwa does not exist\n  {folder} holds: embedder, instructions.jsonl, model" in said
    )


def test_what_is_there_and_is_not_what_the_recipe_says_is_found_before_anything_runs(folder):
    (folder / "quiz.json").write_text('[["Which?", ["1. this", "2. that"], "1"]]')
    (folder / "hellaswag").mkdir()
    (folder / "hellaswag" / "validation.jsonl").write_text('{"ctx_a": "no endings"}\n')
    (folder / "replay" / "general.txt").rename(folder / "general.docx")
    text = SMALL + (
        "corpus: {clean: {rules: [imagse]}, decontaminate: {benchmarks: [instructions.jsonl]}}\n"
        "training: {pack: {replay: replay}}\n"
        "evaluation: {embedder: ./embedder, multiple_choice: [{name: quiz, path: quiz.json, format: teleqna}],\n"
        "  forgetting: [{task: hellaswag, path: hellaswag}]}\n"
    )
    with pytest.raises(RecipeError) as caught:
        check(parse(text, folder=folder))
    said = str(caught.value)
    for words in (
        'corpus.clean.rules: "imagse" is not a rule',
        "corpus.decontaminate.benchmarks: ",
        f"evaluation.multiple_choice: quiz: {folder}/quiz.json holds no multiple choice question of the format",
        "evaluation.forgetting: hellaswag: ",
        f"training.pack.replay: {folder}/replay: no text is there",
    ):
        assert words in said
    assert said.count("corpus.decontaminate.benchmarks: ") == 1


def test_models_are_looked_for_where_they_are_used(folder):
    text = SMALL + "lm: {model: ./asked}\nevaluation: {embedder: ./embedder, judge: {model: 'package:no_such_thing/m'}}"
    with pytest.raises(RecipeError) as caught:
        check(parse(text, folder=folder))
    assert "lm.model: " in str(caught.value) and "evaluation.judge.model: " in str(caught.value)
    check(
        parse(
            text.replace("./asked", "./model").replace("model: 'package:no_such_thing/m'", "endpoint: http://x/v1"),
            folder=folder,
        )
    )


def test_the_arms_of_a_study_are_looked_at_too(folder):
    text = SMALL + "evaluation: {embedder: ./embedder}\nstudy: {arms: {small: [], large: [model.name=./large]}}"
    with pytest.raises(RecipeError, match=r"^study, arm large: model\.name: .*no such file or folder"):
        check(parse(text, folder=folder))
    (folder / "large").mkdir()
    with pytest.raises(RecipeError, match=r"^study, arm large: model\.name: .*config\.json is missing"):
        check(parse(text, folder=folder))
    (folder / "large" / "config.json").write_text("{}")
    check(parse(text, folder=folder))


def test_a_bucket_and_a_hub_name_are_not_looked_for_on_this_machine(folder):
    check(parse(SMALL.replace("path: raw", "path: 's3://bucket/raw'").replace("./model", "owner/model"), folder=folder))


def test_a_model_that_neither_this_machine_nor_the_hub_has_is_told_and_is_no_mistake(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    text = SMALL.replace("./model", "owner/model") + "lm: {model: ./model}"
    assert list(find_away(parse(SMALL, folder=folder))) == []
    (said,) = find_away(parse(text, folder=folder))
    assert said.startswith('model.name: "owner/model" is not on this machine') and "set HF_ENDPOINT" in said


def test_reference_models_of_this_machine_are_looked_for(folder):
    text = SMALL + (
        "evaluation: {embedder: ./embedder, reference_models: {vendor: ./none, hub: owner/chat, "
        "served: {model: big, endpoint: 'http://h/v1'}}}"
    )
    with pytest.raises(RecipeError) as caught:
        check(parse(text, folder=folder))
    assert str(caught.value).splitlines()[0].startswith("evaluation.reference_models.vendor: ")
    assert str(caught.value).count("evaluation.") == 1
    check(parse(text.replace("./none", "./model"), folder=folder))


def test_the_models_of_a_recipe_are_brought_to_this_machine(folder, capsys):
    text = SMALL + "evaluation: {embedder: ./model, reference_models: {vendor: ./model}}"
    (folder / "my.yaml").write_text(text)
    assert main(["models", "fetch", str(folder / "my.yaml")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed] == [
        [field, str(folder / "model")]
        for field in ("model.name", "evaluation.embedder", "evaluation.reference_models.vendor")
    ]
    (folder / "model" / "config.json").unlink()
    assert main(["models", "fetch", str(folder / "my.yaml")]) == 2
    assert "model.name: " in capsys.readouterr().err
    assert main(["models", "fetch", "telecom"]) == 2 and "--to DIR" in capsys.readouterr().err
