"""Decontaminate: nothing that a model is tested on may be in its training text.

Run on the corpus against the recipe's benchmarks, and before training against Tele-Eval's held-out part as well.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from telellm.recipe import Decontaminate, Recipe, RecipeError
from telellm.records import Document, Question, Rejected
from telellm.stage import Context, Output, stage
from telellm.store import sha256_file

WORD = re.compile(r"\w+")
PASSAGE = re.compile(r"\n[ ]*\n")
MAX_REMOVED_SHARE = 0.5
"""A document that loses more of its words than this is rejected whole."""


def _place(recipe: Recipe, key: str, inputs: Mapping[str, Output | None]) -> str:
    """The corpus without benchmarks is the snapshot; what training reads is made from it."""
    return f"stages/decontaminate/{key}" if inputs.get("questions") else f"corpora/{recipe.name}/{key}"


def _identity(recipe: Recipe) -> list[str]:
    return [sha256_file(path) for path in _benchmark_files(recipe.corpus.decontaminate)]


@stage(sections=("corpus.decontaminate",), produces=Document, place=_place, identity=_identity)
def decontaminate(
    context: Context, settings: Decontaminate, documents: Output, questions: Output | None = None
) -> Iterator[Document | Rejected]:
    """Take out of each document the passages that share a run of `ngram_words` words with a test question.

    Rejects `"contaminated"` documents (more than half is gone), each passage with what it matches
    (`"contaminated passage"`), and the documents of held-out questions (`"held out"`).
    Source: 8-gram overlap, as in GPT-2 (Radford et al. 2019, Section 4).
    """
    length = settings.ngram_words
    index: dict[int, str] = {}
    held_out: set[str] = set()
    for path in _benchmark_files(settings):
        add_ngrams(index, (text for text in read_questions(path)), length, path.name)
    for question in questions.records(Question) if questions else ():
        if question.split == "held-out":
            held_out.add(question.id)
            add_ngrams(index, [f"{question.statement} {question.answer}"], length, f"Tele-Eval {question.id}")
    context.summary |= {"benchmark_ngrams": len(index), "held_out_documents": len(held_out), "found": {}}
    found: dict[str, int] = context.summary["found"]
    for document in context.progress.track(documents.records(Document), documents.num_records, "documents"):
        if document.id in held_out:
            yield Rejected(document, "held out")
            continue
        kept, removed = split(document.content, index, length)
        if not removed:
            yield document
            continue
        for passage, source in removed:
            found[source] = found.get(source, 0) + 1
            item = {"id": document.id, "passage": passage}
            yield Rejected(item, "contaminated passage", f"shares {length} words with {source}")
        if len(kept) < MAX_REMOVED_SHARE * len(document.content):
            yield Rejected(document, "contaminated")
        else:
            yield document.with_content(kept).with_fields(passages_removed=len(removed))


def ngrams(words: list[str], length: int) -> Iterator[int]:
    """Yield a 64-bit hash, the same on every machine, of each run of `length` words."""
    for start in range(len(words) - length + 1):
        yield int.from_bytes(sha256(" ".join(words[start : start + length]).encode()).digest()[:8], "big")


def add_ngrams(index: dict[int, str], texts: Iterable[str], length: int, source: str) -> None:
    """Add the runs of words of test texts to an index from hash to source."""
    for text in texts:
        for gram in ngrams(WORD.findall(text.lower()), length):
            index.setdefault(gram, source)


def split(text: str, index: Mapping[int, str], length: int) -> tuple[str, list[tuple[str, str]]]:
    """Return the text without the passages that hold a run in the index, and those with what they matched.

    A run may cross passages: then all that it touches go.
    """
    if not index:
        return text, []
    words = list(WORD.finditer(text))
    grams = ngrams([word[0].lower() for word in words], length)
    hits = {number: index[gram] for number, gram in enumerate(grams) if gram in index}
    if not hits:
        return text, []
    bounds = [0, *(match.end() for match in PASSAGE.finditer(text)), len(text)]
    kept, removed = [], []
    spans = sorted((words[number].start(), words[number + length - 1].end(), source) for number, source in hits.items())
    for start, end in pairwise(bounds):
        matched = next((source for first, last, source in spans if first < end and last > start), None)
        if matched is None:
            kept.append(text[start:end])
        else:
            removed.append((text[start:end].strip(), matched))
    return "".join(kept).strip(), removed


def read_questions(path: Path) -> Iterator[str]:
    """Yield the test texts of a benchmark file: each question, alone and with its correct option.

    Reads JSON (a list, or an object of questions) and JSON Lines, whatever the file is called; a row is an object
    (`question`, `options`/`choices`, `answer`) or a list `[question, options, answer]`. Raises `RecipeError`.
    """
    for row in read_rows(path):
        question, options, answer = _parts(row)
        if question:
            yield question
            if (correct := _correct(options, answer)) is not None:
                yield f"{question} {correct}"
                yield correct


def read_rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a JSON or JSON Lines file; raises `RecipeError` when it is neither."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"corpus.decontaminate.benchmarks: {path} cannot be read: {error}") from None
    try:
        whole = json.loads(text)
        yield from (whole.values() if isinstance(whole, dict) and "question" not in whole else whole)
        return
    except ValueError:
        pass
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                raise RecipeError(
                    f"corpus.decontaminate.benchmarks: {path}, line {number} is not JSON; "
                    "write one question a line, or one list of questions"
                ) from None


def _parts(row: Any) -> tuple[str, list[Any], Any]:
    if isinstance(row, list) and row:
        return str(row[0]), row[1] if len(row) > 1 and isinstance(row[1], list) else [], row[-1]
    if not isinstance(row, dict):
        return "", [], None
    lowered = {str(key).lower(): value for key, value in row.items()}
    question = next((lowered[key] for key in ("question", "statement", "prompt", "text") if lowered.get(key)), "")
    options = lowered.get("options") or lowered.get("choices") or []
    if isinstance(options, dict):
        options = options.get("text", list(options.values()))
    options = list(options) or [value for key, value in sorted(lowered.items()) if re.match(r"option[ _]?\d", key)]
    return str(question), options, lowered.get("answer")


def _correct(options: list[Any], answer: Any) -> str | None:
    """Return the correct option's text without its number, or the answer itself where there are no options."""
    if not options:
        return str(answer) if answer is not None else None
    for option in options:  # "3" or "option 3" names the option that begins with "3."
        number = re.search(r"\d+", str(answer))
        if isinstance(answer, str) and number and re.match(rf"\(?{number[0]}[.):]", str(option).strip()):
            return re.sub(r"^\(?\d+[.):]\s*", "", str(option).strip())
    if isinstance(answer, int) and 0 <= answer < len(options):
        return str(options[answer])
    return str(answer) if answer in options else None


def _benchmark_files(settings: Decontaminate) -> list[Path]:
    files: list[Path] = []
    for name in settings.benchmarks:
        path = Path(name)
        if not path.exists():
            raise RecipeError(f"corpus.decontaminate.benchmarks: {path} does not exist")
        files += sorted(p for p in path.rglob("*.json*") if p.is_file()) if path.is_dir() else [path]
    return files
