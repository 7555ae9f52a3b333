"""Texts that a recipe names to tune a model on: conversations."""

import json
from pathlib import Path
from typing import Any

from telellm.recipe import RecipeError
from telellm.store import Store


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
