"""Endpoint: what is measured of a model behind an OpenAI-compatible server, by the answers that it writes."""

from telellm.evaluation.letters import Letters, ask_letters, unreadable
from telellm.evaluation.local import Asked, Found
from telellm.evaluation.reference import NO_LIKELIHOODS
from telellm.lm.endpoint import EndpointModel
from telellm.progress import Progress
from telellm.recipe import Evaluation, LanguageModel, ReferenceModel


def measure_endpoint(
    name: str, model: ReferenceModel, asked: Asked, found: Found, settings: Evaluation, progress: Progress
) -> dict[str, str]:
    """Add to `found` what can be measured of a model behind an endpoint; returns what cannot, each with the reason.

    Its answers are those to the bare question, through the server's chat template, as an instruct model is asked.
    """
    limits = {"max_concurrency": model.max_concurrency, "timeout_seconds": model.timeout_seconds}
    client = EndpointModel(
        LanguageModel.model_validate({"endpoint": model.endpoint, "model": model.model} | limits),
        model.model,
        f"evaluation.reference_models.{name}",
        model.key_variable,
    )
    for benchmark, questions in asked.benchmarks.items():
        progress.start(len(questions.questions), f"questions of {benchmark}")
        found.choices[benchmark] = list(
            ask_letters(client, questions.questions, settings.rotations, settings.max_answer_tokens, progress.advance)
        )
    if {"semscore", "llm_eval"} & set(settings.metrics):
        first = asked.questions[: settings.max_generated or None]
        progress.start(len(first), "answers")
        statements = (question.statement for question in first)
        for row, text in zip(found.rows, client.generate_each(statements, settings.max_answer_tokens), strict=False):
            row["generated"] = text.rpartition("</think>")[2].strip()
            progress.advance(1)
    return dict.fromkeys(_impossible(asked, settings), NO_LIKELIHOODS)


def _impossible(asked: Asked, settings: Evaluation) -> list[str]:
    """Return the beginnings of the names of scores that this recipe asks for and no endpoint can have."""
    wanted = {
        "answer_perplexity": "answer_perplexity" in settings.metrics,
        "general": bool(asked.general),
        "literature": bool(asked.unseen),
        **{f"forgetting.{task}": True for task in asked.tasks},
    }
    return [name for name, is_asked in wanted.items() if is_asked]


def unreadable_letters(found: Found, benchmark: str) -> int:
    """Return how many answers to a benchmark's questions held no letter."""
    return unreadable([one for one in found.choices[benchmark] if isinstance(one, Letters)])
