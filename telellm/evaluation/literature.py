"""Literature: how well a model predicts and completes documents that training never saw."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from telellm.evaluation.likelihood import Continued, log_likelihoods, longest_input
from telellm.evaluation.multiple_choice import TIE
from telellm.evaluation.passages import Blank, Next, continuations, draw_documents, equations, spread, terms
from telellm.evaluation.results import Row, row
from telellm.evaluation.scores import Score, add_up_texts, ratio
from telellm.evaluation.texts import Text, cut, measure_texts, text_rows
from telellm.lm.client import cut_before
from telellm.progress import Progress
from telellm.recipe import Literature
from telellm.recipe.evaluation import COMPLETED_TOKENS
from telellm.records import CATEGORIES, Document
from telellm.stage import Output

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LITERATURE = "literature"
TERMS, EQUATIONS, NEXT = f"{LITERATURE}.terms", f"{LITERATURE}.equations", f"{LITERATURE}.next_sentence"
SPLIT = "held-out"
SPACES = re.compile(r"\\[,;:! ]|\\q?quad\b|\\(?:left|right|displaystyle|limits|nolimits)(?![a-zA-Z])|[\s~]")


@dataclass(frozen=True)
class Unseen:
    """What is asked about held-out documents."""

    texts: Sequence[Text] = ()
    terms: Sequence[Blank] = ()
    equations: Sequence[Blank] = ()
    sentences: Sequence[Next] = ()

    def __len__(self) -> int:
        return len(self.texts) + len(self.terms) + len(self.equations) + len(self.sentences)

    def blanks(self) -> Iterator[tuple[str, Sequence[Blank], int, Sequence[str]]]:
        """Yield what is completed: the task, its blanks, the most tokens of a completion, and what ends one."""
        for task, blanks, most, stop in (
            (TERMS, self.terms, COMPLETED_TOKENS["terms"], ()),
            (EQUATIONS, self.equations, COMPLETED_TOKENS["equations"], ("$", "\n\n")),
        ):
            if blanks:
                yield task, blanks, most, stop


NOTHING = Unseen()


def read_unseen(held_out: Output, settings: Literature, seed: int) -> Unseen:
    """Return what is asked about the documents that a hold-out took from the training text, drawn by lot."""

    def lot(name: str) -> str:
        return sha256(f"{seed}\n{name}".encode()).hexdigest()

    documents = draw_documents(held_out_documents(held_out), settings.max_documents, lot)
    randoms = [Random(lot(document.id)) for document in documents]
    pairs, characters = list(zip(documents, randoms, strict=True)), settings.context_characters
    asked_terms = [terms(document, characters, random) for document, random in pairs]
    asked_equations = [equations(document, characters, random) for document, random in pairs]
    following = continuations(documents, characters, settings.options, settings.max_sentences, Random(lot(NEXT)))
    return Unseen(
        [Text(d.id, d.category, cut(d.content, settings.max_characters), SPLIT) for d in documents],
        spread(asked_terms, settings.max_terms),
        spread(asked_equations, settings.max_equations),
        following,
    )


def held_out_documents(held_out: Output) -> Iterator[Document]:
    """Stream the documents that a hold-out rejected because of their questions."""
    import pyarrow.parquet as parquet

    for name in held_out.names("rejects/"):
        with parquet.ParquetFile(held_out.path(name)) as file:
            for batch in file.iter_batches(batch_size=64, columns=["reason", "item"]):
                for rejected in batch.to_pylist():
                    if rejected["reason"] == "held out":
                        yield Document(**json.loads(rejected["item"]))


def ask_unseen(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    unseen: Unseen,
    batch_size: int,
    progress: Progress,
) -> list[Row]:
    """Return a row for whatever is asked; every model goes on with plain text, whatever template it has."""
    rows: list[Row] = []
    if unseen.texts:
        progress.start(len(unseen.texts), "unseen documents")
        found = measure_texts(model, tokenizer, unseen.texts, batch_size, progress.advance)
        rows += text_rows(LITERATURE, unseen.texts, found)
    for task, blanks, most, stop in unseen.blanks():
        progress.start(len(blanks), task.rpartition(".")[2])
        texts = [blank.before for blank in blanks]
        rows += completed_rows(
            task, blanks, complete(model, tokenizer, texts, most, batch_size, stop, progress.advance)
        )
    if unseen.sentences:
        progress.start(len(unseen.sentences), "next sentences")
        rows += choose_next(model, tokenizer, unseen.sentences, batch_size, progress.advance)
    return rows


def complete(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    max_tokens: int,
    batch_size: int,
    stop: Sequence[str],
    advance: Callable[[int], None],
) -> list[str]:
    """Return how the model goes on with each text, its likeliest token at each step, up to the first of `stop`."""
    import torch

    most = longest_input(model) - max_tokens
    encoded: list[list[int]] = [tokens[-most:] for tokens in tokenizer(list(texts))["input_ids"]]
    order = sorted(range(len(texts)), key=lambda number: len(encoded[number]), reverse=True)
    found = [""] * len(texts)
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        longest = len(encoded[numbers[0]])
        gaps = [longest - len(encoded[number]) for number in numbers]
        pad = int(tokenizer.pad_token_id or 0)
        ids = [[pad] * gap + encoded[number] for gap, number in zip(gaps, numbers, strict=True)]
        mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
        with torch.inference_mode():
            output = model.generate(  # type: ignore[operator]
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=max_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=pad,
                **({"stop_strings": list(stop), "tokenizer": tokenizer} if stop else {}),
            )
        for number, tokens in zip(numbers, output[:, longest:], strict=True):
            text = str(tokenizer.decode(tokens, skip_special_tokens=True))
            found[number] = cut_before(text, stop)
        advance(len(numbers))
    return found


def choose_next(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    asked: Sequence[Next],
    batch_size: int,
    advance: Callable[[int], None],
) -> list[Row]:
    """Return for each place which sentence the model finds the likeliest: by log-likelihood a byte, as in HellaSwag.

    Source: Zellers et al., HellaSwag (arXiv 1905.07830); a byte as in lm-eval's `acc_norm`.
    """
    most = longest_input(model)
    groups = []
    for one in asked:
        before: list[int] = tokenizer(one.before)["input_ids"]
        endings: list[list[int]] = [
            tokenizer(f" {option}", add_special_tokens=False)["input_ids"] for option in one.options
        ]
        room = most - max(map(len, endings))
        groups.append([Continued(before[-room:] if room > 0 else before[-1:], endings)])
    found = log_likelihoods(model, int(tokenizer.pad_token_id or 0), groups, batch_size, advance)
    return next_rows(asked, [scores for (scores,) in found])


def completed_rows(task: str, blanks: Sequence[Blank], texts: Sequence[str]) -> list[Row]:
    """Return a row for each blank, given how a model went on."""
    judge = judge_term if task == TERMS else judge_equation
    return [
        _completed(task, blank, text, *judge(text, blank.answer)) for blank, text in zip(blanks, texts, strict=True)
    ]


def next_rows(asked: Sequence[Next], found: Sequence[list[float]]) -> list[Row]:
    """Return a row for each place, given the log-likelihood of each of its sentences (nats)."""
    rows = []
    for one, scores in zip(asked, found, strict=True):
        rates = [score / len(option.encode()) for score, option in zip(scores, one.options, strict=True)]
        likeliest = [place for place, rate in enumerate(rates) if max(rates) - rate < TIE]
        rows.append(
            row(
                NEXT,
                id=one.id,
                statement=one.before,
                answer=one.options[one.answer],
                split=SPLIT,
                category=one.category,
                options=list(one.options),
                orders=[list(range(len(one.options)))],
                log_likelihoods=[scores],
                correct=1 / len(likeliest) if one.answer in likeliest else 0.0,
            )
        )
    return rows


def judge_term(text: str, answer: str) -> tuple[float, float]:
    """Return whether a completion begins with the term, and how far its first words are from it."""
    given, wanted = " ".join(text.casefold().split()), " ".join(answer.casefold().split())
    exact = re.match(rf"{re.escape(wanted)}(?![\w-])", given) is not None
    words = re.sub(r"^[^\w]+|[^\w]+$", "", " ".join(given.split()[: len(wanted.split())]))
    return float(exact), 0.0 if exact else edit_distance(words, wanted)


def judge_equation(text: str, answer: str) -> tuple[float, float]:
    """Return whether a completion is the right side of the equation, but for spacing, and how far it is from it."""
    given, wanted = (plain_latex(side) for side in (text, answer))
    return float(given == wanted), edit_distance(given, wanted)


def plain_latex(text: str) -> str:
    """Return LaTeX without what changes only how it looks: spaces, sizes of brackets, braces around one character."""
    return re.sub(r"\{(\w)\}", r"\1", SPACES.sub("", text)).rstrip(".,;")


def edit_distance(first: str, second: str) -> float:
    """Return Levenshtein's distance as a share of the longer text's length, 0 (equal) to 1."""
    before = list(range(len(second) + 1))
    for number, letter in enumerate(first, 1):
        now = [number]
        for place, other in enumerate(second, 1):
            now.append(min(before[place] + 1, now[-1] + 1, before[place - 1] + (letter != other)))
        before = now
    return before[-1] / max(len(first), len(second), 1)


def add_up_literature(rows: Sequence[Row]) -> dict[str, Score]:
    """Return the scores of all that was asked, of whole documents also by category."""
    by_task: dict[str, list[Row]] = {}
    for one in rows:
        by_task.setdefault(one["task"], []).append(one)
    texts = by_task.get(LITERATURE, [])
    scores = add_up_texts(LITERATURE, texts)
    for category in CATEGORIES:
        found = add_up_texts(LITERATURE, [one for one in texts if one["category"] == category])
        scores |= {f"{name}.{category}": score for name, score in found.items()}
    for task, columns in COMPLETED.items():
        for name, column in columns.items():
            if task in by_task:
                scores[f"{task}.{name}"] = mean_by_document(by_task[task], column)
    return scores


def mean_by_document(rows: Sequence[Row], column: str) -> Score:
    """Return the mean over rows; those of one document are alike, so its error is that over documents."""
    sums, counts = Counter[str](), Counter[str]()
    for one in rows:
        sums[one["id"]] += one[column]
        counts[one["id"]] += 1
    found = ratio(np.array([sums[name] for name in counts], float), np.array(list(counts.values()), float))
    return found | {"n": len(rows)}


COMPLETED: Mapping[str, Mapping[str, str]] = {
    TERMS: {"exact": "correct", "edit_distance": "edit_distance"},
    EQUATIONS: {"exact": "correct", "edit_distance": "edit_distance"},
    NEXT: {"accuracy": "correct"},
}
"""Task → its scores, and the column of each."""


def _completed(task: str, blank: Blank, text: str, correct: float, distance: float) -> Row:
    return row(
        task,
        id=blank.id,
        statement=blank.before,
        answer=blank.answer,
        split=SPLIT,
        category=blank.category,
        generated=text,
        correct=correct,
        edit_distance=distance,
    )
