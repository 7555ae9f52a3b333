"""Tele-Eval: open questions from the corpus, whose answers are facts that its documents state."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

from telellm.lm import LanguageModelClient, language_model_digest, open_language_model
from telellm.lm.prompts import Prompt, load_prompt
from telellm.lm.yes_no import YesNoQuestion
from telellm.recipe import TeleEval
from telellm.records import Document, Question, Rejected
from telellm.stage import Context, stage
from telellm.tele_eval.passages import Passage, beginning, choose_passages
from telellm.tele_eval.rules import nearly_equal, objection, overlap

PROMPTS = Path(__file__).parent / "prompts"
DOCUMENTS_AT_ONCE = 16
"""Documents whose questions are asked for together."""


@dataclass(frozen=True)
class Draft:
    """A question as the model wrote it, with the passage that it was shown."""

    question: Question
    passage: Passage


@stage(
    sections=("tele_eval", "lm", "model", "seed"),
    produces=Question,
    per=Document,
    workers=1,
    place=lambda recipe, key, inputs: f"tele-eval/{recipe.name}/{key}",
    identity=lambda recipe: language_model_digest(recipe.lm, recipe.model),
)
def tele_eval(context: Context, settings: TeleEval, documents: Iterator[Document]) -> Iterator[Question | Rejected]:
    """Write open questions about the facts that documents state, and keep those that stand alone.

    Rules find the sentences that state a fact; such a sentence is the answer, and the model writes the question. Rules
    (`telellm.tele_eval.rules`) and then the model itself, which is asked whether the passage supports the answer, throw
    out what is not fit; each rejected question keeps its reason. A document's split depends on its id and the seed.
    Source: Tele-LLMs (arXiv 2409.05314), section on Tele-Eval; there a model writes the answer too.
    """
    recipe = context.recipe
    prompt = load_prompt(PROMPTS, settings.prompt)
    support_prompt = load_prompt(PROMPTS, settings.support_prompt)
    client = open_language_model(recipe.lm, recipe.model)
    used = Counter(client.usage)
    support: YesNoQuestion | None = None
    context.progress.start(context.counts["in"], "documents")
    while batch := list(islice(documents, DOCUMENTS_AT_ONCE)):
        drafts = write_questions(batch, settings, client, prompt, recipe.seed)
        context.counts["passages"] += len(drafts)
        context.counts["documents without a fact"] += len(batch) - len({draft.question.id for draft in drafts})
        verdicts = apply_rules(drafts, settings)
        fit = [draft for draft, verdict in zip(drafts, verdicts, strict=True) if not verdict]
        if fit and support is None and settings.support_threshold > 0:
            support = YesNoQuestion(client, support_prompt)
            context.summary["lean"] = round(support.lean, 3)
        supported = iter(support.probabilities([_case(draft) for draft in fit]) if support else [1.0] * len(fit))
        for draft, verdict in zip(drafts, verdicts, strict=True):
            if verdict:
                yield Rejected(draft.question, verdict)
            elif (probability := next(supported)) < settings.support_threshold:
                yield Rejected(draft.question, "not supported", f"{probability:.3f}")
            else:
                context.counts[f"kind {draft.question.kind}"] += 1
                context.counts[f"split {draft.question.split}"] += 1
                yield draft.question
        context.progress.advance(len(batch))
    context.counts.update(client.usage - used)
    context.summary |= {
        "model": language_model_digest(recipe.lm, recipe.model),
        "seed": recipe.seed,
        "prompts": {prompt.name: prompt.digest, support_prompt.name: support_prompt.digest},
    }


def write_questions(
    documents: Sequence[Document], settings: TeleEval, client: LanguageModelClient, prompt: Prompt, seed: int
) -> list[Draft]:
    """Return one draft for each chosen passage of the documents, in their order."""
    lengths = (settings.minimum_answer_words, settings.maximum_answer_words)
    found = [
        (document, passage)
        for document in documents
        for passage in choose_passages(
            document.content,
            f"{document.id} {seed}",
            settings.passages_per_document,
            settings.passage_words,
            lengths,
        )
    ]
    answers = client.generate(
        [
            prompt.fill({"passage": passage.text, "answer": passage.fact, "begin": beginning(passage)})
            for _, passage in found
        ],
        settings.max_question_tokens,
        system=prompt.system,
        examples=prompt.examples,
        stop=["\n"],
    )
    return [
        Draft(
            Question(
                statement=parse_question(answer),
                answer=passage.fact,
                id=document.id,
                kind=passage.kind,
                evidence=passage.text,
                split=split_of(document.id, seed, settings.held_out_share),
            ),
            passage,
        )
        for (document, passage), answer in zip(found, answers, strict=True)
    ]


def parse_question(answer: str) -> str:
    """Return the question in what a model wrote: its first sentence that ends in a question mark, or ""."""
    line = answer.strip().removeprefix("Question:").strip().strip('"*').strip()
    end = line.find("?")
    return line[: end + 1].strip() if end > 0 else ""


def apply_rules(drafts: Sequence[Draft], settings: TeleEval) -> list[str]:
    """Return why each draft is rejected, "" where it is not."""
    lengths = (settings.minimum_answer_words, settings.maximum_answer_words)
    verdicts: list[str] = []
    kept: dict[str, list[str]] = {}
    for draft in drafts:
        question = draft.question
        earlier = kept.setdefault(question.id, [])
        verdict = "" if question.statement else "unparseable"
        verdict = verdict or objection(question.statement, question.answer, lengths)
        if not verdict and overlap(question.answer, draft.passage.text) < settings.minimum_overlap:
            verdict = "answer is not in the passage"
        if not verdict and any(nearly_equal(question.statement, other) for other in earlier):
            verdict = "asked before"
        if not verdict:
            earlier.append(question.statement)
        verdicts.append(verdict)
    return verdicts


def split_of(document: str, seed: int, held_out_share: float) -> str:
    """Return `held-out` for a share of documents and `train` for the others, by their id and the seed alone."""
    drawn = int(sha256(f"{seed} {document}".encode()).hexdigest()[:13], 16) / 16**13
    return "held-out" if drawn < held_out_share else "train"


def _case(draft: Draft) -> dict[str, str]:
    question = draft.question
    return {"passage": draft.passage.text, "question": question.statement, "answer": question.answer}
