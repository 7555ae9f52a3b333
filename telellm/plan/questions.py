"""Questions: what it takes to ask models: screening, Tele-Eval, and the evaluation of what was trained."""

import math
from collections.abc import Mapping

from telellm.benchmark.general_tasks import LONGEST_ANSWER, num_examples
from telellm.lm.models import find_local
from telellm.plan.cost import Speed, asking_flops
from telellm.plan.shape import Shape, read_shape
from telellm.plan.texts import BYTES_PER_TOKEN, Texts
from telellm.plan.work import Work
from telellm.recipe import LanguageModel, Recipe, RecipeError
from telellm.recipe.evaluation import COMPLETED_TOKENS

TOKENS_PER_WORD = 1.4
PROMPT_TOKENS = {"screen": 120, "question": 350, "check": 150, "answer": 40, "judge": 150, "choice": 120}
"""Instructions and examples around what is asked about."""
GENERAL_TOKENS = {"hellaswag": 200}
"""Prompt and options of a question of general ability, where they are not those of multiple choice."""
SENTENCE_TOKENS = 40
"""A sentence among which the next one is chosen."""
QUESTION_TOKENS = 120
"""Question, answer, kind and evidence, as a model writes them about a piece."""
ANSWER_TOKENS = 35
KEPT_SHARES = {"facts": 0.5, "pieces": 0.2}
"""Share of the questions that the filters leave: 0.3 to 0.7 were seen of facts; of pieces it is a guess."""
ORDERS = 4
"""Orders of the options of a multiple choice question, where the recipe leaves them to the question."""


def screening(recipe: Recipe, texts: Texts, shape: Shape, speed: Speed, notes: list[str]) -> Work:
    """Return what screening takes: one answer of one token for each document that is not trusted."""
    settings = recipe.corpus.screen
    known = sum(texts.by_category.values()) or 1
    asked = sum(number for name, number in texts.by_category.items() if name not in settings.trusted) / known
    number = round(texts.documents * asked)
    read = number * (PROMPT_TOKENS["screen"] + TOKENS_PER_WORD * settings.excerpt_words)
    return _ask("screen", recipe.lm, number, read, 0, shape, speed, notes)


def asking(recipe: Recipe, texts: Texts, shape: Shape, speed: Speed, notes: list[str]) -> Work:
    """Return what Tele-Eval takes: questions about each piece or fact, and what the model is asked of each question."""
    settings = recipe.tele_eval
    if settings.path:
        return Work("tele-eval", 0, basis="the questions are there already")
    pieces, drafts, words = _pieces(recipe, texts)
    is_facts = settings.draft.method == "facts"
    read = pieces * (PROMPT_TOKENS["question"] + TOKENS_PER_WORD * words)
    written = drafts * (settings.draft.max_question_tokens / 2 if is_facts else QUESTION_TOKENS)
    check = settings.check
    thresholds = (check.self_contained_threshold, check.support_threshold, check.correct_threshold)
    num_checks = drafts * sum(threshold > 0 for threshold in thresholds)
    read += num_checks * (PROMPT_TOKENS["check"] + TOKENS_PER_WORD * min(words, settings.draft.passage_words))
    return _ask("tele-eval", recipe.lm, pieces + num_checks, read, written, shape, speed, notes)


def _pieces(recipe: Recipe, texts: Texts) -> tuple[int, int, int]:
    """Return how many pieces of documents are read, how many questions are drafted, and the words of a piece."""
    draft = recipe.tele_eval.draft
    if draft.method == "facts":
        number = texts.documents * draft.passages_per_document
        return number, number, draft.passage_words
    in_all = sum(texts.by_category.values()) / TOKENS_PER_WORD / draft.piece_words
    most = draft.pieces_per_document * texts.documents or in_all
    number = max(1, round(min(in_all, most)))
    return number, number * draft.questions_per_piece, draft.piece_words


def evaluating(
    recipe: Recipe,
    texts: Texts,
    shape: Shape,
    beside: Mapping[str, Shape | None],
    speed: Speed,
    pipeline: str,
    notes: list[str],
) -> Work:
    """Return what evaluation takes, of all models together; the judge's part is counted as the model's own.

    `beside`: the sizes of reference models, None for one behind an endpoint.
    """
    settings = recipe.evaluation
    found = texts.questions or round(_pieces(recipe, texts)[1] * KEPT_SHARES[recipe.tele_eval.draft.method])
    num_models = 2 + bool(recipe.training.instruct.data) + (pipeline == "nightly")
    asked = min(found, settings.max_questions or found)
    answered = min(asked, settings.max_generated or asked)
    read: float = asked * (PROMPT_TOKENS["answer"] + ANSWER_TOKENS)
    written = 0
    if {"semscore", "llm_eval"} & set(settings.metrics):
        read += answered * PROMPT_TOKENS["answer"]
        written = answered * settings.max_answer_tokens
    if "llm_eval" in settings.metrics:
        read += answered * (PROMPT_TOKENS["judge"] + settings.max_answer_tokens)
    for benchmark in settings.multiple_choice:
        read += benchmark.max_questions * (settings.rotations or ORDERS) * PROMPT_TOKENS["choice"]
    for task in settings.forgetting:
        asked_with = 1 + num_examples(task)
        read += task.max_questions * GENERAL_TOKENS.get(task.task, PROMPT_TOKENS["choice"]) * asked_with
        written += task.max_questions * LONGEST_ANSWER if task.task == "gsm8k" else 0
    if "literature" in settings.metrics:
        unseen_read, unseen_written = _literature(recipe, texts)
        read, written = read + unseen_read, written + unseen_written
    sets = [(each.name, each.max_questions) for each in settings.multiple_choice]
    sets += [(each.task, each.max_questions) for each in settings.forgetting]
    if uncounted := [name for name, number in sets if not number]:
        notes.append(f"evaluation: how many questions {', '.join(uncounted)} hold is not known: they are not counted")
    shapes = [*[shape] * num_models, *(found for found in beside.values() if found is not None)]
    seconds = sum(asking_flops(found, read, written) for found in shapes) / speed.one
    basis = f"{len(shapes)} models, {asked:,} questions" + ("" if texts.questions else " (a guess)")
    if served := [name for name, found in beside.items() if found is None]:
        basis += f"; {' and '.join(served)} answered by an endpoint, whose GPU hours are its own"
    return Work(
        "evaluate", len(shapes) * round(read + written), hours=seconds / 3600, gpu_hours=seconds / 3600, basis=basis
    )


def _literature(recipe: Recipe, texts: Texts) -> tuple[float, int]:
    """Return the tokens that are read of documents that training never sees, and those that are written after them."""
    settings = recipe.evaluation.literature
    held_out = math.ceil(texts.documents * recipe.tele_eval.held_out_share)
    documents = min(held_out, settings.max_documents or held_out)
    if not documents:
        return 0, 0
    in_all = sum(texts.by_category.values()) / max(1, texts.documents)
    before = settings.context_characters / BYTES_PER_TOKEN
    read = documents * min(in_all, settings.max_characters / BYTES_PER_TOKEN)
    read += (settings.max_terms + settings.max_equations) * before
    read += settings.max_sentences * (before + settings.options * SENTENCE_TOKENS)
    written = {"terms": settings.max_terms, "equations": settings.max_equations}
    return read, sum(number * COMPLETED_TOKENS[name] for name, number in written.items())


def _ask(
    name: str,
    model: LanguageModel,
    requests: int,
    read: float,
    written: float,
    shape: Shape,
    speed: Speed,
    notes: list[str],
) -> Work:
    tokens = round(read + written)
    if model.endpoint:
        return Work(name, tokens, requests=requests, basis="answered by lm.endpoint, whose GPU hours are its own")
    asked = _shape_of(model, shape, notes)
    hours = asking_flops(asked, read, written) / speed.one / 3600
    return Work(
        name, tokens, hours=hours, gpu_hours=hours, basis=f"{requests:,} answers, {asked.parameters / 1e9:.2g} B"
    )


def _shape_of(model: LanguageModel, base: Shape, notes: list[str]) -> Shape:
    if not model.model:
        return base
    try:
        if "://" not in model.model:
            find_local(model.model)
        return read_shape(model.model, model.revision)
    except RecipeError as error:
        note = f"lm.model is counted as if it were as large as the base model: {error}"
        if note not in notes:
            notes.append(note)
        return base
