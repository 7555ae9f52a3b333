"""Questions: what the report says of Tele-Eval, and the page on which its questions can be read."""

import heapq
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from itertools import accumulate
from typing import Any

from telellm.recipe import LanguageModel, Recipe
from telellm.records import Question
from telellm.report.page import page_template
from telellm.stage import Output

PAGE = "questions.html"
TEMPLATE = "questions.html.jinja"
STEPS = {
    "draft": "written, and kept by the rules",
    "distinct": "not asked before",
    "tele-eval": "left after the checks",
}
"""The steps that make Tele-Eval → what is left after each."""
NUM_ON_PAGE = 200
NUM_EXAMPLES = 20
LONGEST = 4_000
"""Of a longer evidence, so much is shown (characters)."""
LARGEST_PAGE = 1_000_000
"""The page's questions have no more characters together: Kubeflow shows it within a page of its own."""


def describe_questions(steps: Mapping[str, Output], recipe: Recipe) -> dict[str, Any] | None:
    """Return Tele-Eval's figures, what each step left out, what asking cost, and some questions drawn by the seed."""
    if "tele-eval" not in steps:
        return None
    output = steps["tele-eval"]
    made = {name: steps[name].manifest for name in STEPS if name in steps}
    splits, kinds, categories = Counter[str](), Counter[str](), Counter[str]()
    documents: dict[str, set[bytes]] = {"train": set(), "held-out": set()}
    for question in output.records(Question):
        splits[question.split] += 1
        kinds[question.kind or "other"] += 1
        categories[question.id.partition("_")[0]] += 1
        documents.setdefault(question.split, set()).add(sha256(question.id.encode()).digest()[:8])
    drops: Counter[str] = Counter()
    for manifest in made.values():
        drops.update(manifest["drops"])
    drafts = splits.total() + drops.total()
    return {
        "place": output.prefix,
        "questions": splits.total(),
        "drafts": drafts,
        "kept_share": splits.total() / drafts if drafts else None,
        "method": "file" if recipe.tele_eval.path else recipe.tele_eval.draft.method,
        "documents": {split: len(found) for split, found in documents.items()},
        "splits": dict(splits.most_common()),
        "kinds": dict(kinds.most_common()),
        "categories": dict(categories.most_common()),
        "drops": dict(drops.most_common()),
        "steps": [
            {"name": name, "left": STEPS[name], "out": manifest["out"], "drops": dict(manifest["drops"])}
            for name, manifest in made.items()
        ],
        "asking": asking_cost(made.values(), recipe.lm),
        "examples": [asdict(question) for question in _examples(output, recipe.seed)],
    }


def asking_cost(manifests: Iterable[Mapping[str, Any]], lm: LanguageModel) -> dict[str, Any]:
    """Return the requests and tokens that the questions took, and their cost where the recipe has a price."""
    counts: Counter[str] = Counter()
    for manifest in manifests:
        counts.update({name: number for name, number in manifest["counts"].items() if isinstance(number, int)})
    tokens_in, tokens_out = counts["prompt_tokens"], counts["completion_tokens"]
    asked = counts["requests"] + sum(number for name, number in counts.items() if name.startswith("asked "))
    has_price = lm.price_in > 0 or lm.price_out > 0
    cost = (tokens_in * lm.price_in + tokens_out * lm.price_out) / 1e6
    return {
        "requests": asked,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "cost": round(cost, 6) if has_price else None,
    }


def memory_and_transfer(by_split: Sequence[Mapping[str, Any]], metrics: Container[str]) -> list[dict[str, Any]]:
    """Return a row a model and metric, with its difference from the base model on each split."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for found in by_split:
        key = (found["metric"], found["baseline"], found["candidate"])
        rows.setdefault(key, dict(zip(("metric", "baseline", "candidate"), key, strict=True)))[found["split"]] = found
    return [row for row in rows.values() if row["baseline"] == "base" and row["metric"] in metrics]


def render_page(output: Output, recipe: Recipe, run: str) -> str:
    """Return the page of questions: up to 200, drawn by the seed, with their evidence; everything is escaped.

    Fewer where they are very long (`LARGEST_PAGE`); the page says how many there are.
    """
    drawn = [asdict(question) | {"evidence": question.evidence[:LONGEST]} for question in draw(output, recipe.seed)]
    ends = accumulate(len(entry["statement"]) + len(entry["answer"]) + len(entry["evidence"]) for entry in drawn)
    shown = [entry for entry, end in zip(drawn, ends, strict=True) if end <= LARGEST_PAGE]
    return page_template(TEMPLATE).render(
        run=run, questions=shown, total=output.num_records, place=output.prefix, seed=recipe.seed
    )


def draw(output: Output, seed: int, number: int = NUM_ON_PAGE) -> list[Question]:
    """Return questions drawn by the seed; the set is streamed, only what is drawn is in memory."""

    def lots() -> Iterator[tuple[bytes, int, Question]]:
        for place, question in enumerate(output.records(Question)):
            lot = sha256(f"{seed}\n{question.id}\n{question.statement}".encode("utf-8", "replace")).digest()
            yield lot, place, question

    return [question for _, _, question in heapq.nsmallest(number, lots())]


def _examples(output: Output, seed: int) -> list[Question]:
    """Return some drawn questions, over both splits."""
    drawn = draw(output, seed)
    held_out = [question for question in drawn if question.split == "held-out"]
    train = [question for question in drawn if question.split != "held-out"]
    number = min(len(held_out), max(NUM_EXAMPLES // 2, NUM_EXAMPLES - len(train)))
    chosen = {id(question) for question in [*held_out[:number], *train[: NUM_EXAMPLES - number]]}
    return [question for question in drawn if id(question) in chosen]
