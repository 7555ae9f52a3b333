"""Tele-Eval: open questions about the corpus, after a language model has read each once more."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from telellm.lm import language_model_digest, open_language_model
from telellm.lm.prompts import Prompt, load_prompt
from telellm.lm.yes_no import YesNoQuestion
from telellm.recipe import Check, Recipe
from telellm.records import Question, Rejected
from telellm.stage import Context, stage

PROMPTS = Path(__file__).parent / "prompts"
SHARD_QUESTIONS = 1024
"""Questions of a shard: what is asked again when a worker dies within it."""


@dataclass(frozen=True)
class Doubt:
    """Something that the model is asked about a question, and why a question is rejected by it."""

    reason: str
    prompt: Prompt
    threshold: float


def _identity(recipe: Recipe) -> str:
    is_asked = not recipe.tele_eval.path and doubts(recipe.tele_eval.check)
    return language_model_digest(recipe.lm, recipe.model) if is_asked else ""


@stage(
    sections=("tele_eval.check", "tele_eval.path", "lm", "model"),
    produces=Question,
    per=Question,
    shard_rows=SHARD_QUESTIONS,
    workers=1,
    place=lambda recipe, key, inputs: f"tele-eval/{recipe.name}/{key}",
    identity=_identity,
    reuses=True,
)
def tele_eval(context: Context, settings: Check, questions: Iterator[Question]) -> Iterator[Question | Rejected]:
    """Keep the questions that the model calls self-contained, supported by their evidence, and rightly answered.

    It is asked in this order, the cheapest first, and each only about what is left; a threshold of 0 asks nothing. A
    rejected question keeps its reason and the probability of yes. A set that the recipe names is not asked about.
    Source: Tele-LLMs (arXiv 2409.05314), section on Tele-Eval.
    """
    recipe = context.recipe
    read = list(questions)
    left = list(range(len(read)))
    rejected: dict[int, Rejected] = {}
    asked = [] if recipe.tele_eval.path else doubts(settings)
    context.progress.start(len(left) * max(len(asked), 1), "questions" if len(asked) < 2 else "answers")
    if asked and left:
        client = open_language_model(recipe.lm, recipe.model)
        used = Counter(client.usage)
        for number, doubt in enumerate(asked):
            question = YesNoQuestion(client, doubt.prompt)
            probabilities = question.probabilities([_case(read[at]) for at in left]) if left else []
            context.counts[f"asked {doubt.prompt.name}"] += len(left)
            context.summary[f"lean {doubt.prompt.name}"] = round(question.lean, 3)
            for at, probability in zip(left, probabilities, strict=True):
                if probability < doubt.threshold:
                    rejected[at] = Rejected(read[at], doubt.reason, f"{probability:.3f}")
                    context.progress.advance(len(asked) - number - 1)
                context.progress.advance()
            left = [at for at in left if at not in rejected]
        context.counts.update(client.usage - used)
        context.summary["model"] = language_model_digest(recipe.lm, recipe.model)
    yield from (rejected.get(at, one) for at, one in enumerate(read))
    context.summary["prompts"] = {doubt.prompt.name: doubt.prompt.digest for doubt in asked}


def doubts(settings: Check) -> list[Doubt]:
    """Return what the model is asked about each question, in order."""
    named = (
        ("not self-contained", settings.self_contained_prompt, settings.self_contained_threshold),
        ("not supported", settings.support_prompt, settings.support_threshold),
        ("not correct", settings.correct_prompt, settings.correct_threshold),
    )
    return [Doubt(reason, load_prompt(PROMPTS, name), threshold) for reason, name, threshold in named if threshold > 0]


def _case(question: Question) -> Mapping[str, str]:
    passage = f"{question.clause}: {question.evidence}" if question.clause else question.evidence
    return {"passage": passage, "question": question.statement, "answer": question.answer}
