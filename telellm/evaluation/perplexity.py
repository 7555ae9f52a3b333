"""Answer perplexity: how well a model predicts the reference answer to a question."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telellm.evaluation.likelihood import Continued, log_likelihoods
from telellm.records import Question

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPT = "The following is a question about telecommunications and networking.\nQuestion: {statement}\nAnswer:"
"""The prompt of Tele-LLMs (arXiv 2409.05314)."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a model finds an answer: the sum of the negative log-likelihoods of its tokens (nats)."""

    nll: float
    tokens: int


def measure_answers(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[Question],
    batch_size: int,
    advance: Callable[[int], None],
    before: Sequence[str] = (),
) -> list[Likelihood]:
    """Return for each question how likely the model finds its reference answer after `PROMPT`.

    `before`: what stands in front of each question's prompt (passages of documents).

    One space stands between `Answer:` and the answer, and belongs to the answer's first token. Prompt and answer are
    encoded together, with the tokens that the tokenizer itself puts in front (BOS, where it has one); what differs
    from the encoding of the prompt alone is the answer.
    """
    texts = before or [""] * len(questions)
    encoded = [encode(tokenizer, question, text) for question, text in zip(questions, texts, strict=True)]
    groups = [[Continued(tokens[:begin], [tokens[begin:]])] for tokens, begin in encoded]
    found = log_likelihoods(model, int(tokenizer.pad_token_id or 0), groups, batch_size, advance)
    return [
        Likelihood(-score, len(tokens) - begin) for ((score,),), (tokens, begin) in zip(found, encoded, strict=True)
    ]


def encode(tokenizer: "PreTrainedTokenizerBase", question: Question, text: str = "") -> tuple[list[int], int]:
    """Return the token ids of prompt and answer, and the position at which the answer begins (at least 1)."""
    prompt = text + PROMPT.format(statement=question.statement)
    before: list[int] = tokenizer(prompt)["input_ids"]
    whole: list[int] = tokenizer(f"{prompt} {question.answer.strip()}")["input_ids"]
    begin = 0
    while begin < min(len(before), len(whole) - 1) and before[begin] == whole[begin]:
        begin += 1
    return whole, max(begin, 1)
