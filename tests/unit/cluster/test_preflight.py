"""What a recipe asks of pods that they do not have is said before anything starts."""

import pytest

from telellm.cluster.preflight import refuse_unreachable
from telellm.recipe import RecipeError, parse

RECIPE = """
name: small
model: {name: owner/model}
lm: {endpoint: "http://vllm:8000/v1"}
sources:
  one: {category: web, path: s3://raw/web}
"""


def said(*changes: str, in_kubeflow: bool) -> list[str]:
    """Return the fields that are refused."""
    try:
        refuse_unreachable(parse(RECIPE, changes=list(changes)), "s3://bucket/runs", in_kubeflow=in_kubeflow)
    except RecipeError as error:
        return [line.partition(": ")[0] for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize(
    ("change", "elsewhere", "in_kubeflow"),
    [
        ("model.revision=main", [], []),
        ("cluster.stages=[pretrain]", [], ["cluster.stages"]),
        ("cluster.stages=[ingest, clean, screen]", [], []),
        ("tele_eval.distinct.embedder=owner/embedder", [], ["tele_eval.distinct.embedder_endpoint"]),
        ("model.name=package:llm/model.gguf", [], ["model.name"]),
        ("truth=/truth.json", [], ["truth"]),
        ("sources.one.path=/raw", ["sources.one.path"], ["sources.one.path"]),
        ("evaluation.general.text=package:telellm/evaluation/general.txt", [], []),
    ],
)
def test_what_steps_of_kubeflow_lack_is_refused_there_alone(
    change: str, elsewhere: list[str], in_kubeflow: list[str]
) -> None:
    assert said(change, in_kubeflow=False) == elsewhere
    assert said(change, in_kubeflow=True) == in_kubeflow


def test_an_embedder_behind_a_server_or_of_a_set_that_is_there_is_no_matter() -> None:
    embedder = "tele_eval.distinct.embedder=owner/embedder"
    served = "tele_eval.distinct.embedder_endpoint=http://vllm:8001/v1"
    assert said(embedder, served, in_kubeflow=True) == []
    assert said(embedder, "tele_eval.path=s3://raw/questions.jsonl", in_kubeflow=True) == []
