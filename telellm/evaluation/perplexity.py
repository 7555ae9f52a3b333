"""Answer perplexity: how well a model predicts the reference answer to a question."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
) -> list[Likelihood]:
    """Return for each question how likely the model finds its reference answer after `PROMPT`.

    One space stands between `Answer:` and the answer, and belongs to the answer's first token. Prompt and answer are
    encoded together, with the tokens that the tokenizer itself puts in front (BOS, where it has one); what differs
    from the encoding of the prompt alone is the answer. Log-softmax in float32, over the answer's positions only.
    """
    import torch
    from torch.nn.functional import cross_entropy

    encoded = [encode(tokenizer, question) for question in questions]
    order = sorted(range(len(encoded)), key=lambda number: len(encoded[number][0]), reverse=True)
    found: dict[int, Likelihood] = {}
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        longest = len(encoded[numbers[0]][0])
        ids = torch.full((len(numbers), longest), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, number in enumerate(numbers):
            tokens, _ = encoded[number]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        # a token is predicted at the position before it; padding stands on the right, where nothing looks at it
        first = min(encoded[number][1] for number in numbers) - 1
        ids = ids.to(model.device)
        with torch.inference_mode():
            logits = model(
                input_ids=ids,
                attention_mask=mask.to(model.device),
                use_cache=False,
                logits_to_keep=torch.arange(first, longest - 1, device=model.device),
            ).logits
        for row, number in enumerate(numbers):
            tokens, begin = encoded[number]
            scores = logits[row, begin - 1 - first : len(tokens) - 1 - first].float()
            nll = cross_entropy(scores, ids[row, begin : len(tokens)], reduction="sum")
            found[number] = Likelihood(float(nll), len(tokens) - begin)
        advance(len(numbers))
    return [found[number] for number in range(len(encoded))]


def encode(tokenizer: "PreTrainedTokenizerBase", question: Question) -> tuple[list[int], int]:
    """Return the token ids of prompt and answer, and the position at which the answer begins (at least 1)."""
    prompt = PROMPT.format(statement=question.statement)
    before: list[int] = tokenizer(prompt)["input_ids"]
    whole: list[int] = tokenizer(f"{prompt} {question.answer.strip()}")["input_ids"]
    begin = 0
    while begin < min(len(before), len(whole) - 1) and before[begin] == whole[begin]:
        begin += 1
    return whole, max(begin, 1)
