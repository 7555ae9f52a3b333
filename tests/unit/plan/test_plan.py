"""What a run will take, held against what it takes."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from telellm.cli import main
from telellm.plan import Plan, estimate
from telellm.plan.shape import read_shape
from telellm.plan.show import describe
from telellm.recipe import Lora, Recipe, RecipeError, parse
from telellm.runs import find_stage
from telellm.store import Store
from telellm.training.sequences import order
from tests import stages
from tests.conftest import BUCKET, S3Server

SAMPLES = Path(__file__).parents[3] / "samples"
WORDS = "The gNB hands the user equipment over to the neighbour cell when its reference signal is stronger. "


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Recipe:
    """A recipe with two sources, replay and conversations."""
    for folder, number in (("standards", 12), ("web", 5), ("general", 3)):
        (tmp_path / folder).mkdir()
        for each in range(number):
            (tmp_path / folder / f"{each}.md").write_text(f"# Text {each}\n\n" + WORDS * (5 * each + 3))
    rows = [{"messages": [{"role": "user", "content": WORDS}, {"role": "assistant", "content": WORDS}]}] * 20
    (tmp_path / "instructions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = f"""
name: planned
model: {{name: {tiny_model}}}
sources:
  standards: {{category: standard, path: standards}}
  web: {{category: web, path: web}}
training:
  pack: {{sequence_length: 64, replay: general, replay_share: 0.1}}
  pretrain: {{epochs: 1.5, batch_sequences: 4, checkpoint_steps: 3}}
  instruct: {{data: instructions.jsonl, sequence_length: 128, batch_sequences: 2}}
evaluation: {{general: {{text: ""}}}}
"""
    return parse(text, folder=tmp_path)


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(recipe.to_yaml(), changes=changes)


def packed(recipe: Recipe, store: Store, run: str = "planned") -> dict[str, Any]:
    """Really ingest and pack, as a run of the store; returns what packing says."""
    from telellm.execution import execute
    from telellm.progress import Progress

    store.write(f"runs/{run}/recipe.yaml", recipe.to_yaml().encode())
    silent = Progress("test", lambda event: None)
    documents = execute(find_stage("ingest"), recipe, store, run, {}, progress=silent)
    text = execute(find_stage("deduplicate"), recipe, store, run, {"documents": documents}, progress=silent)
    text = execute(find_stage("decontaminate"), recipe, store, run, {"documents": text}, progress=silent)
    execute(find_stage("pack"), recipe, store, run, {"documents": text}, progress=silent)
    note = store.read_json(f"runs/{run}/stages/pack.json")
    assert note is not None
    summary: dict[str, Any] = note["manifest"]["summary"]
    return summary


def steps_of(recipe: Recipe, num_sequences: int) -> int:
    """As the training program counts them."""
    settings = recipe.training.pretrain
    numbers = list(order(num_sequences, settings.epochs, settings.seed))
    steps = math.ceil(len(numbers) / settings.batch_sequences)
    return min(steps, settings.max_steps or steps)


@pytest.mark.parametrize("changes", [[], ["training.pretrain.max_steps=2"], ["training.pretrain.epochs=3"]])
def test_tokens_and_steps_are_those_of_an_earlier_run(
    recipe: Recipe, directory_store: Store, changes: list[str]
) -> None:
    counted = packed(recipe, directory_store)
    planned = changed(recipe, *changes)
    plan = estimate(planned, directory_store)
    assert plan.texts.exact and plan.texts.basis == "counted by the run planned"
    assert plan.tokens == counted["num_tokens"] and plan.texts.sequences == counted["num_sequences"]
    assert plan.texts.by_category == counted["tokens"] and plan.texts.replay == counted["replay_tokens"] > 0
    assert plan.steps == steps_of(planned, counted["num_sequences"])


def test_other_sequences_of_the_same_corpus_are_counted_without_packing_it_again(
    recipe: Recipe, directory_store: Store
) -> None:
    packed(recipe, directory_store)
    other = changed(recipe, "name=other", "training.pack.sequence_length=96", "training.pack.replay_share=0.2")
    plan = estimate(other, directory_store)
    counted = packed(other, directory_store, "other")
    assert (plan.tokens, plan.texts.sequences) == (counted["num_tokens"], counted["num_sequences"])


def test_a_part_of_the_corpus_is_counted_from_the_whole(recipe: Recipe, directory_store: Store) -> None:
    whole = packed(recipe, directory_store)
    standards = estimate(changed(recipe, "training.pack.categories=[standard]"), directory_store)
    assert standards.texts.by_category == {"standard": whole["tokens"]["standard"]}
    half = estimate(changed(recipe, "training.pack.share=0.5"), directory_store)
    assert half.texts.by_category["standard"] == pytest.approx(whole["tokens"]["standard"] / 2, abs=1)
    assert not half.texts.exact


def test_without_a_run_the_sizes_of_files_tell_roughly(recipe: Recipe, directory_store: Store) -> None:
    kinds = {"arxiv": "arxiv", "standards": "standard", "wikipedia": "wiki", "web": "web"}
    sources = {name: {"category": kind, "path": str(SAMPLES / name)} for name, kind in kinds.items()}
    samples = changed(
        recipe, f"sources={json.dumps(sources)}", "training.pack.replay=", "corpus.ingest.shard_files=1000"
    )
    rough = estimate(samples)
    assert "sizes of the sources' files" in rough.texts.basis and not rough.texts.exact
    found: Counter[str] = Counter()
    for document in stages.documents(stages.run(find_stage("ingest"), samples, directory_store)):
        found[document.category] += len(document.content.encode())
    assert set(found) == set(rough.texts.by_category)
    for category, size in found.items():
        tokens = 0.8 * size / 4  # a fifth is held out
        factor = 10 if category == "web" else 3  # pages of the samples have hardly any navigation
        assert tokens / factor < rough.texts.by_category[category] < tokens * factor, category


def test_a_corpus_of_known_size_needs_no_source_but_one_of_an_unknown_is_refused(recipe: Recipe) -> None:
    bucket = changed(recipe, "sources.standards.path=s3://nowhere/x", "sources.web.path=s3://nowhere/y")
    plan = estimate(bucket, tokens=2_500_000_000)
    assert sum(plan.texts.by_category.values()) == 2_500_000_000 and plan.steps > 1e7
    with pytest.raises(RecipeError, match=r"plan: no source could be looked at.*--tokens[^\n]*\n  sources\.") as caught:
        estimate(bucket)
    assert "credentials" in str(caught.value)


def test_sources_in_a_bucket_are_looked_at_by_their_sizes(
    recipe: Recipe, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    store = Store.open(f"s3://{BUCKET}/planned")
    for path in (tmp_path / "web").iterdir():
        store.upload(f"raw/{path.name}", path)
    there = estimate(changed(recipe, f"sources.web.path=s3://{BUCKET}/planned/raw"))
    assert there.texts == estimate(recipe).texts


def test_a_missing_source_and_a_missing_model_are_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"sources\.web\.path: /nowhere does not exist"):
        estimate(changed(recipe, "sources.web.path=/nowhere"))
    with pytest.raises(RecipeError, match=r"config\.json is missing"):
        estimate(changed(recipe, f"model.name={tmp_path}"))


def test_a_hub_model_that_is_not_here_is_said_at_once_and_exits_with_2(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    path = tmp_path / "hub.yaml"
    path.write_text(changed(recipe, "model.name=owner/no-such-model").to_yaml())
    assert main(["plan", str(path)]) == 2
    said = capsys.readouterr().err
    assert 'model: "owner/no-such-model" is not on this machine' in said and "hf download" in said


def test_parameters_are_those_of_the_model(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    shape = read_shape(str(tiny_model))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.layers, shape.hidden, shape.key_value) == (2, 64, 32)
    from peft import LoraConfig, get_peft_model

    for targets in ([], ["q_proj", "v_proj"]):
        fresh = AutoModelForCausalLM.from_pretrained(tiny_model)
        adapted: Any = get_peft_model(fresh, LoraConfig(r=4, target_modules=targets or "all-linear"))
        trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
        assert shape.trained("lora", Lora(rank=4, targets=targets)) == trained  # type: ignore[call-arg]


def on_gpus(recipe: Recipe, *changes: str, gpus: int = 8) -> Plan:
    cluster = ["cluster.enabled=true", f"cluster.training.gpus_per_node={gpus}"]
    return estimate(changed(recipe, *cluster, *changes), tokens=10_000_000)


def test_the_state_is_divided_over_the_gpus(recipe: Recipe) -> None:
    one, eight = (on_gpus(recipe, gpus=number).step("pretrain").memory_gib for number in (1, 8))
    for part in ("weights", "gradients", "optimiser"):
        assert one[part] == pytest.approx(8 * eight[part])
    assert one["activations"] == eight["activations"]
    assert (
        on_gpus(recipe, "training.pretrain.method=lora", "training.lora.rank=2")
        .step("pretrain")
        .memory_gib["optimiser"]
        < eight["optimiser"]
    )
    again = on_gpus(recipe, "training.pretrain.activation_checkpointing=true").step("pretrain").memory_gib
    assert again["activations"] < eight["activations"]


def test_hours_follow_from_operations_and_the_peak_of_the_gpu(recipe: Recipe) -> None:
    plan = on_gpus(recipe)
    work, shape = plan.step("pretrain"), plan.shape
    operations = 6 * shape.parameters + 6 * shape.layers * shape.attention * 64
    assert work.gpu_hours == pytest.approx(operations * work.tokens / (0.4 * 989e12) / 3600)
    assert work.hours == pytest.approx(work.gpu_hours / 8)
    assert plan.gpu_hours > work.gpu_hours
    cluster = changed(recipe, "cluster.enabled=true")
    slower = estimate(cluster, tokens=10_000_000, gpu="A100").step("pretrain")
    assert slower.gpu_hours == pytest.approx(work.gpu_hours * 989 / 312)
    with pytest.raises(RecipeError, match='"Abacus" is not a known GPU\n  known GPUs: B200, H100'):
        estimate(cluster, tokens=1, gpu="Abacus")


def test_a_measured_speed_takes_the_place_of_a_guess(recipe: Recipe, directory_store: Store) -> None:
    counted = packed(recipe, directory_store)
    shape = read_shape(recipe.model.name)
    facts = {"device": "CPU", "processes": 1, "parameters": shape.parameters, "trained_parameters": shape.parameters}
    summary = facts | {"tokens_per_second": 500.0, "steps": 3, "tokens": 768, "seconds": 1.5}
    manifest = {"summary": summary, "finished_at": "2026-11-01T00:00:00Z", "sections": {}}
    directory_store.write_json("runs/planned/stages/pretrain.json", {"output": "x", "manifest": manifest})
    work = estimate(recipe, directory_store).step("pretrain")
    assert "measured by an earlier run" in work.basis
    assert work.hours == pytest.approx(work.tokens / 500 / 3600)
    assert work.tokens == pytest.approx(1.5 * counted["num_tokens"], rel=0.02)


def test_what_is_not_trained_costs_nothing(recipe: Recipe) -> None:
    plan = estimate(changed(recipe, "training.pretrain.method=none", "training.instruct.method=none"))
    assert plan.steps == 0 and plan.gpu_memory_gib == 0
    assert plan.step("pretrain").hours == plan.step("instruct").hours == 0


def test_questions_are_counted_in_hours_here_and_in_requests_to_a_server(recipe: Recipe) -> None:
    here = estimate(recipe)
    assert here.step("screen").gpu_hours > 0 and here.step("tele-eval").requests == 0
    there = estimate(changed(recipe, "lm.endpoint=http://teacher:8000/v1", "lm.model=teacher"))
    for name in ("screen", "tele-eval"):
        assert there.step(name).requests > 0 and there.step(name).gpu_hours == 0
        assert there.step(name).tokens == here.step(name).tokens
    assert there.step("screen").requests == here.texts.documents


def test_questions_of_general_ability_are_counted_with_their_examples(recipe: Recipe) -> None:
    def tokens(*fields: str) -> int:
        task = ", ".join(["path: s3://raw/data", *fields])
        return estimate(changed(recipe, f"evaluation.forgetting=[{{{task}}}]")).step("evaluate").tokens

    without = estimate(recipe).step("evaluate").tokens
    once = tokens("task: mmlu", "max_questions: 100") - without
    assert once > 0 and tokens("task: mmlu", "max_questions: 100", "few_shot: 4") - without == 5 * once
    assert tokens("task: gsm8k", "max_questions: 100") - without > 6 * once  # five examples, and a written answer
    whole = estimate(changed(recipe, "evaluation.forgetting=[{task: mmlu, path: s3://raw/data}]"))
    assert any("how many questions mmlu hold is not known" in note for note in whole.notes)


def test_literature_is_counted_by_what_is_read_and_completed(recipe: Recipe) -> None:
    def tokens(*changes: str) -> int:
        metrics = "evaluation.metrics=[answer_perplexity, literature]"
        return estimate(changed(recipe, metrics, *changes)).step("evaluate").tokens

    nothing = [f"evaluation.literature.{name}=0" for name in ("max_terms", "max_equations", "max_sentences")]
    without = estimate(changed(recipe, "evaluation.metrics=[answer_perplexity]")).step("evaluate").tokens
    texts = tokens(*nothing) - without
    assert 0 < texts <= 3 * 100 * 1000  # three models read at most a hundred texts of 4000 characters
    terms = tokens(*nothing[1:], "evaluation.literature.max_terms=50") - without - texts
    assert terms == 3 * 50 * (600 / 4 + 12)  # of base, pretrained and instruct: what is read, and what is written
    assert (
        tokens("tele_eval.held_out_share=0")
        == estimate(changed(recipe, "evaluation.metrics=[answer_perplexity]", "tele_eval.held_out_share=0"))
        .step("evaluate")
        .tokens
    )


def test_nights_keep_a_model_for_each_version_that_retention_keeps(recipe: Recipe) -> None:
    once = estimate(recipe).storage
    nights = changed(recipe, "retention={versions: 5, refused_days: 1, runs_days: 2, unused_days: 3}")
    assert estimate(nights, pipeline="nightly").storage["models of 8 nights"] == pytest.approx(8 * once["models"])


def test_the_command_shows_recipe_and_plan(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "planned.yaml"
    path.write_text(recipe.to_yaml())
    assert main(["plan", str(path), "--set", "training.pretrain.max_steps=3"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("name: planned\n") and "max_steps: 3" in shown
    for word in (
        "tokens ",
        "pretrain",
        "GiB a process",
        "machine hours",
        "storage ",
        "about: sizes of the sources' files",
    ):
        assert word in shown
    assert main(["plan", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recipe"]["name"] == "planned" and told["steps"] == estimate(recipe).steps
    assert [work["name"] for work in told["work"]] == ["screen", "tele-eval", "pretrain", "instruct", "evaluate"]


def test_the_estimate_needs_no_weights(recipe: Recipe, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text((tiny_model / "config.json").read_text())
    plan = estimate(changed(recipe, f"model.name={tmp_path / 'config'}"))
    assert plan.shape.parameters == estimate(recipe).shape.parameters


MEASURED = {
    6.46: [],
    4.62: ["method=lora"],
    4.58: ["activation_checkpointing=true"],
    3.74: ["processes=2"],
    4.41: ["micro_batch_sequences=1"],
    6.98: ["checkpoint_steps=1"],
}
"""Peak resident size of a process that trained SmolLM2-135M on a CPU (GiB), and the changes to the recipe."""


@pytest.mark.parametrize("measured", MEASURED)
def test_memory_is_what_was_measured_within_a_third(recipe: Recipe, tmp_path: Path, measured: float) -> None:
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    (tmp_path / "smollm2").mkdir()
    (tmp_path / "smollm2" / "config.json").write_text(json.dumps({"model_type": "llama", **sizes, **heads}))
    settings = ["max_steps=2", "batch_sequences=4", "micro_batch_sequences=4", "checkpoint_steps=100"]
    changes = [f"training.pretrain.{change}" for change in (*settings, *MEASURED[measured])]
    name = f"model.name={tmp_path / 'smollm2'}"
    planned = changed(recipe, name, "training.pack.sequence_length=256", *changes)
    plan = estimate(planned, tokens=100_000)
    assert plan.shape.parameters == 134_515_008
    assert measured / 1.33 < sum(plan.step("pretrain").memory_gib.values()) < measured * 1.33


def test_reference_models_are_counted_by_their_own_size_and_what_is_fetched_for_them(
    recipe: Recipe, directory_store: Store, tiny_model: Path
) -> None:
    alone = estimate(recipe, directory_store, tokens=5000)
    beside = [f"evaluation.reference_models.vendor={tiny_model}"]
    served = ["evaluation.reference_models.served={model: big, endpoint: 'http://h/v1'}"]
    plan = estimate(changed(recipe, *beside, *served), directory_store, tokens=5000)
    before, after = alone.step("evaluate"), plan.step("evaluate")
    assert after.tokens == before.tokens / 3 * 4 and after.hours == pytest.approx(before.hours / 3 * 4)
    assert after.basis.startswith("4 models") and "served answered by an endpoint" in after.basis
    assert not plan.downloads  # both lie on this machine
    directory_store.write("models/tiny/config.json", (tiny_model / "config.json").read_bytes())
    far = f"evaluation.reference_models.vendor={directory_store.uri}/models/tiny"
    fetched = estimate(changed(recipe, far), directory_store, tokens=5000)
    assert fetched.downloads == {"vendor": pytest.approx(4 * fetched.shape.parameters / 2**30)}
    assert any("not in the store: vendor" in line for line in describe(fetched))
    assert fetched.to_json()["downloads"] == fetched.downloads
