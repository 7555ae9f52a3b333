"""Texts that a recipe names beside the corpus: replay text, and conversations."""

import json
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from telellm.recipe import RecipeError
from telellm.store import Store

KINDS = (".md", ".parquet", ".txt")
COLUMNS = ("content", "text")
"""The column of a Parquet file that holds the text."""


def text_files(folder: str) -> tuple[Store, list[str]]:
    """Return a folder or bucket prefix as a store, and the names of its text files, sorted.

    Raises `RecipeError` when it is not there or holds no such file.
    """
    if "://" not in folder and not Path(folder).is_dir():
        raise RecipeError(f"training.pack.replay: {folder}: there is no such folder")
    store = Store.open(folder)
    names = [name for name in store.list("") if name.endswith(KINDS)]
    if not names:
        raise RecipeError(f"training.pack.replay: {folder}: no text is there; known files: {', '.join(KINDS)}")
    return store, names


def read_texts(store: Store, name: str) -> Iterator[str]:
    """Yield the texts of one file: the whole of a .md or .txt file, the rows of a .parquet file.

    Raises `RecipeError` when the file cannot be read or has no column of text.
    """
    data = store.read(name)
    if not name.endswith(".parquet"):
        try:
            yield data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError(f"{store.uri}/{name}: not UTF-8 text: {error}") from None
        return
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(BytesIO(data))
        column = next((known for known in COLUMNS if known in file.schema_arrow.names), None)
    except pyarrow.ArrowException as error:
        raise RecipeError(f"{store.uri}/{name}: not a Parquet file: {error}") from None
    if column is None:
        raise RecipeError(f"{store.uri}/{name}: no column of text; known names: {', '.join(COLUMNS)}")
    for batch in file.iter_batches(batch_size=256, columns=[column]):
        yield from (text for text in batch.column(0).to_pylist() if text)


def replay_digests(folder: str) -> list[str]:
    """Return the digests of a replay folder's files; none for no folder."""
    if not folder:
        return []
    store, names = text_files(folder)
    return [f"{name} {sha256(store.read(name)).hexdigest()}" for name in names]


def read_conversations(uri: str) -> tuple[bytes, list[list[dict[str, str]]]]:
    """Return a JSON Lines file as it is, and its conversations: lists of `{role, content}`.

    Raises `RecipeError` naming the line that is not a conversation.
    """
    folder, _, name = uri.rpartition("/")
    if not name or ("://" not in uri and not Path(uri).is_file()):
        raise RecipeError(f'training.instruct.data: "{uri}": there is no such file; name a JSON Lines file')
    data = Store.open(folder).read(name)
    conversations = []
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            conversations.append(_conversation(line, f"{uri}: line {number}"))
    return data, conversations


def _conversation(line: bytes, where: str) -> list[dict[str, str]]:
    try:
        value: Any = json.loads(line)
        messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in value["messages"]]
    except (ValueError, TypeError, KeyError) as error:
        raise RecipeError(f"{where}: not {{messages: [{{role, content}}, …]}}: {error!r}") from None
    if not messages:
        raise RecipeError(f"{where}: the conversation is empty")
    return messages
