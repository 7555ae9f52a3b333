"""The chart's exporter: what Prometheus reads of the reports in a bucket."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from telellm.store import Store

SCRIPT = Path(__file__).parents[2] / "helm" / "telellm" / "files" / "exporter.py"


def a_report(recipe: str, score: float, **more: Any) -> dict[str, Any]:
    return {
        "recipe": {"name": recipe, "cluster": {"enabled": True, "training": {"nodes": 2, "gpus_per_node": 8}}},
        "models": [{"role": "base", "metrics": {"answer_perplexity.corpus": {"value": score, "stderr": 0.1, "n": 9}}}],
        "corpus": {"categories": {"standard": {"documents": 7, "tokens": None}}},
        "tele_eval": {"questions": 12},
        "stages": [
            {"name": "pretrain", "seconds": 1800.0, "drops": {}},
            {"name": "clean", "seconds": 2.0, "drops": {"x": 3}},
        ],
        "training": {"pretrain": {"tokens_per_second": 143.0}},
        "gate": None,
    } | more


def test_the_newest_report_of_each_recipe_is_shown(bucket_uri: str) -> None:
    exporter = runpy.run_path(str(SCRIPT))
    store = Store.open(bucket_uri)
    store.write_json("runs/monday/report/report.json", a_report("telecom", 9.5))
    store.write_json("runs/monday/checkpoints/1/x.json", {})
    store.write_json("runs/going-on/recipe.yaml", {})
    reports = exporter["Reports"](bucket_uri)
    text = exporter["look"](reports)
    score = 'telellm_score{recipe="telecom",role="base",metric="answer_perplexity.corpus"} '
    assert f"{score}9.5\n" in text
    assert 'telellm_corpus_documents{recipe="telecom",category="standard"} 7\n' in text
    assert 'telellm_training_gpu_hours{recipe="telecom",stage="pretrain"} 8.0\n' in text
    assert 'telellm_stage_dropped{recipe="telecom",stage="clean"} 3\n' in text
    assert 'telellm_training_tokens_per_second{recipe="telecom",stage="pretrain"} 143.0\n' in text
    assert "telellm_store_reached 1.0\n" in text
    assert "telellm_gate_promoted{" not in text
    # the same run again, by the same name, on another night
    store.write_json("runs/monday/report/report.json", a_report("telecom", 8.25, gate={"promoted": False}))
    text = exporter["look"](reports)
    assert f"{score}8.25\n" in text and "9.5" not in text
    assert 'telellm_gate_promoted{recipe="telecom"} 0.0\n' in text


def test_a_store_that_is_away_is_a_figure(bucket_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = runpy.run_path(str(SCRIPT))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "telellm_store_reached 0.0\n" in exporter["look"](exporter["Reports"](bucket_uri))


def test_every_figure_has_its_name_in_prometheus_format() -> None:
    exporter = runpy.run_path(str(SCRIPT))
    found = list(exporter["series"]('tele"com', 1.0, json.loads(json.dumps(a_report("x", 2.0)))))
    text = exporter["text"](found)
    assert 'recipe="tele\\"com"' in text
    assert {name for name, _, _ in found} <= set(exporter["HELP"])
