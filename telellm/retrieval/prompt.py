"""Prompt: passages in front of a question."""

from collections.abc import Sequence

from telellm.retrieval.passages import Passage

HEAD = "These passages may help to answer the question that follows them."


def before_question(passages: Sequence[Passage]) -> str:
    """Return what stands before a question's prompt; "" without passages."""
    if not passages:
        return ""
    numbered = [f"[{number}] {passage.source}\n{passage.text}" for number, passage in enumerate(passages, 1)]
    return "\n\n".join([HEAD, *numbered, ""]) + "\n"
