"""Ask: one question, the answers of several models side by side, and the passages that they were given."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from telellm.progress import Progress
from telellm.recipe import RecipeError, parse
from telellm.retrieval.passages import Passage
from telellm.retrieval.prompt import before_question
from telellm.serving.named_models import NamedModel, recipe_of_run, snapshots
from telellm.stage import Output, StageFailed
from telellm.store import Store

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

NARROWEST = 36
"""A narrower column is not read: answers are stacked (characters)."""
Show = Callable[[str], None]
"""Takes the answer as far as it is written."""


@dataclass
class Answer:
    """What a model has said so far."""

    model: NamedModel
    text: str = ""
    state: str = "waits"


@dataclass(frozen=True)
class Documents:
    """The passages that were found, and where."""

    run: str
    passages: Sequence[Passage] = field(default=())


def ask(models: Sequence[NamedModel], question: str, documents: Documents | None, max_tokens: int) -> list[Answer]:
    """Put a question to models one after the other, and show the answers as they are written."""
    from rich.console import Console

    answers = [Answer(model) for model in models]
    console = Console()
    before = before_question(documents.passages) if documents else ""
    if console.is_terminal:
        from rich.live import Live

        with Live(console=console, refresh_per_second=8, vertical_overflow="visible") as live:
            for answer in answers:
                _answer(answer, question, before, max_tokens, lambda: live.update(_columns(answers, console)))
    else:
        for answer in answers:
            _answer(answer, question, before, max_tokens, lambda: None)
            console.print(f"{answer.model.label}: {answer.text or answer.state}", markup=False, soft_wrap=True)
    if documents:
        for line in _sources(documents):
            console.print(line, markup=False, soft_wrap=True)
    return answers


def find_documents(models: Sequence[NamedModel], store: Store, question: str) -> Documents:
    """Return passages about a question from the snapshot of the first model that has one, or the store's newest.

    An index that is missing is made. Raises `RecipeError` where the store has no snapshot.
    """
    from telellm.execution import execute
    from telellm.retrieval.index import index
    from telellm.retrieval.search import PassageSearch

    owner = next((model for model in models if model.snapshot), None)
    if owner is not None:
        store, run, snapshot = Store.open(owner.store), owner.run, owner.snapshot
    else:
        run, snapshot = next(snapshots(store), ("", ""))
    if not snapshot:
        raise RecipeError(
            f"ask: {store.uri} has no snapshot to find documents in\n"
            "  make one: telellm run RECIPE --pipeline corpus, or leave out --with-documents"
        )
    if store.exists(f"runs/{run}/recipe.yaml"):
        recipe = recipe_of_run(store, run)
    else:  # retention removed the run, its version stays
        recipe = parse("name: ask\nmodel: {name: none/none}\nsources: {none: {category: web, path: none}}")
    settings = recipe.retrieval
    place = execute(index, recipe, store, run, {"documents": snapshot}, progress=_quiet_when_skipped())
    search = PassageSearch(Output.find(store, place), settings.embedder, settings.candidates)
    return Documents(run, [found.passage for found in search.search([question], settings.passages)[0]])


def _quiet_when_skipped() -> Progress:
    progress = Progress("index")
    emit = progress._emit
    progress._emit = lambda event: None if event["state"] == "skipped" else emit(event)
    return progress


def _answer(answer: Answer, question: str, before: str, max_tokens: int, changed: Callable[[], None]) -> None:
    def show(text: str) -> None:
        answer.text = text
        changed()

    answer.state = "is loaded"
    changed()
    model = answer.model
    writes = ask_endpoint if model.endpoint else ask_local
    try:
        answer.text = writes(model, question, before, max_tokens, show).strip()
    except (StageFailed, RecipeError) as error:
        answer.text, answer.state = f"(no answer: {error})", "failed"
        changed()
        return
    answer.state = "done"
    answer.text = answer.text or "(says nothing)"
    changed()


def ask_local(model: NamedModel, question: str, before: str, max_tokens: int, show: Show) -> str:
    """Return the answer of a model in this process; it is forgotten afterwards."""
    import torch
    from transformers import StoppingCriteriaList, TextStreamer

    from telellm.evaluation.answers import first_line, greedy, line_ends, prompt_of
    from telellm.lm.models import load_model, load_tokenizer

    loaded, tokenizer = load_model(model.name, model.revision), load_tokenizer(model.name, model.revision)
    chat = model.chat and bool(tokenizer.chat_template)
    prompt = prompt_of(tokenizer, question, chat, before)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat).to(loaded.device)
    length = inputs["input_ids"].shape[1]
    written: list[str] = []

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            written.append(text)
            show("".join(written))

    with torch.inference_mode():
        output = loaded.generate(  # type: ignore[operator]
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            generation_config=greedy(loaded, tokenizer, max_tokens),
            stopping_criteria=StoppingCriteriaList([] if chat else [line_ends(tokenizer, length)]),
            streamer=Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        )
    text = str(tokenizer.decode(output[0, length:], skip_special_tokens=True))
    return text if chat else first_line(text)


def ask_endpoint(model: NamedModel, question: str, before: str, max_tokens: int, show: Show) -> str:
    """Return the answer of a model at an OpenAI-compatible endpoint; its key is in a variable of the environment."""
    import openai

    client = openai.OpenAI(base_url=model.endpoint, api_key=os.environ.get(model.key_variable) or "none", max_retries=1)
    try:
        name = model.name or client.models.list().data[0].id
        messages: Any = [{"role": "user", "content": before + question}]
        written = ""
        for part in client.chat.completions.create(
            model=name, messages=messages, max_tokens=max_tokens, temperature=0, stream=True
        ):
            if part.choices and part.choices[0].delta.content:
                written += part.choices[0].delta.content
                show(written)
        return written
    except openai.OpenAIError as error:
        raise StageFailed(f"{model.endpoint}: {error}") from error
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StageFailed(f"{model.endpoint}: it lists no model, or what it answers is no answer: {error}") from error


def _columns(answers: Sequence[Answer], console: "Console") -> "RenderableType":
    """Return the answers side by side, or stacked where a column would be too narrow."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    panels = [
        Panel(Text(answer.text or f"({answer.state} …)"), title=Text(answer.model.label), title_align="left")
        for answer in answers
    ]
    if console.width // len(panels) < NARROWEST:
        return Group(*panels)
    table = Table.grid(expand=True)
    for _ in panels:
        table.add_column(ratio=1)
    table.add_row(*panels)
    return table


def _sources(documents: Documents) -> Iterator[str]:
    """Yield the passages as a reader cites them."""
    if not documents.passages:
        yield f"sources: no passage of the run {documents.run} shares a word with the question"
        return
    yield f"sources (run {documents.run}):"
    for number, passage in enumerate(documents.passages, 1):
        first = passage.text.strip().partition("\n")[0]
        yield f"  [{number}] {passage.document}  {passage.source}"
        yield f"      {first[:160]}{'…' if len(first) > 160 else ''}"
        if passage.url:
            yield f"      {passage.url}"


def suggestion(store: str, run: str, question: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the command that asks the models of a run, as it can be typed here."""
    import shlex
    import shutil
    from pathlib import Path

    program = Path(sys.argv[0])
    typed = "telellm"
    if program.name == "telellm" and shutil.which("telellm", path=environment.get("PATH")) != str(program.resolve()):
        typed = os.path.relpath(program) if program.exists() else "telellm"
    place = [] if Store.open("store").uri == store else ["--store", store.removeprefix("file://")]
    return shlex.join([typed, "ask", run, question, "--with-documents", *place])
