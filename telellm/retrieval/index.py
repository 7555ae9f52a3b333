"""Index: the passages of a snapshot, so that those about a question are found by BM25."""

import json
from collections.abc import Iterator
from dataclasses import astuple
from hashlib import sha256
from pathlib import Path
from typing import Any

from telellm.recipe import Index
from telellm.records import Document
from telellm.retrieval.passages import Passage, divide
from telellm.retrieval.tokens import tokenize
from telellm.stage import Context, Output, StageFailed, code_version, stage

FOLDER = "index"
MEMORY_BYTES = 64 * 2**20
"""What the index may hold before it writes; with 15 MiB for each thread at least (Tantivy)."""


@stage(sections=("retrieval.index",))
def index(context: Context, settings: Index, documents: Output) -> None:
    """Write the passages of all documents and their words into an index on disk.

    Its memory does not grow with the corpus. The index's files differ from one time to the next (Tantivy names them by
    lot); `data/passages.json` says what they hold, and is what counts as the output's content.
    """
    import tantivy

    folder = context.directory / FOLDER
    folder.mkdir()
    writer = tantivy.Index(schema(), path=str(folder)).writer(heap_size=MEMORY_BYTES, num_threads=1)
    state = sha256()
    num_passages = 0
    for document in context.progress.track(documents.records(Document), documents.num_records, "documents"):
        for passage in divide(document, settings.passage_words):
            row = json.dumps(astuple(passage), ensure_ascii=False)
            state.update(row.encode() + b"\n")
            writer.add_document(tantivy.Document(words=[" ".join(words_of(passage))], passage=[row]))
            num_passages += 1
    if not num_passages:
        raise StageFailed(f"index: none of {documents.num_records:,} documents has text; look at the snapshot")
    writer.commit()
    writer.wait_merging_threads()
    for lock in folder.glob(".*.lock"):
        lock.unlink()
    about = {"passages": num_passages, "sha256": state.hexdigest(), "code": code_version(index)}
    target = context.directory / "data" / "passages.json"
    target.parent.mkdir()
    target.write_text(json.dumps(about, indent=1), encoding="utf-8")
    context.counts["out"] = num_passages
    size = sum(path.stat().st_size for path in folder.iterdir())
    context.summary["headline"] = (
        f"{num_passages:,} passages of {documents.num_records:,} documents, {size / 2**20:,.1f} MiB"
    )


def schema() -> Any:
    """Return the index's schema: words to search, and the passage as it is."""
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_text_field("words", stored=False, tokenizer_name="whitespace", index_option="freq")
    builder.add_text_field("passage", stored=True, tokenizer_name="raw", index_option="basic")
    return builder.build()


def words_of(passage: Passage) -> Iterator[str]:
    """Yield the words by which a passage is found: those of its title, its clause and its text."""
    for text in (passage.title, passage.clause, passage.text):
        yield from tokenize(text)


def index_folder(output: Output, target: Path) -> Path:
    """Link the files of a finished index into a local folder, where Tantivy may put its locks."""
    for name in output.names(f"{FOLDER}/"):
        link = target / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(output.path(name))
    return target / FOLDER
