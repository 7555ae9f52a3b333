"""Answers: what a model says when it is asked."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from telellm.evaluation.perplexity import PROMPT
from telellm.records import Question

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria


def answer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[Question],
    *,
    chat: bool,
    max_tokens: int,
    batch_size: int,
    advance: Callable[[int], None],
    before: Sequence[str] = (),
) -> list[str]:
    """Return the model's answers, its likeliest token at each step.

    `chat`: the question is put through the model's chat template, and the answer ends where the model ends it.
    Otherwise, or where there is no template, it follows the plain prompt and the answer is one line. `before`: what
    stands in front of each question (passages of documents).
    """
    from transformers import StoppingCriteriaList

    chat = chat and bool(tokenizer.chat_template)
    texts = before or [""] * len(questions)
    prompts = [
        prompt_of(tokenizer, question.statement, chat, text) for question, text in zip(questions, texts, strict=True)
    ]
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]), reverse=True)
    answers: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        inputs = tokenizer(
            [prompts[number] for number in numbers],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=not chat,  # the template writes them itself
        ).to(model.device)
        length = inputs["input_ids"].shape[1]
        criteria = [] if chat else [line_ends(tokenizer, length)]
        output = model.generate(  # type: ignore[operator]
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            generation_config=greedy(model, tokenizer, max_tokens),
            stopping_criteria=StoppingCriteriaList(criteria),
        )
        for number, text in zip(numbers, _texts(tokenizer, output[:, length:]), strict=True):
            answers[number] = text.strip() if chat else first_line(text)
        advance(len(numbers))
    return [answers[number] for number in range(len(prompts))]


def first_line(text: str) -> str:
    """Return a text's first line that is not empty."""
    return text.strip().partition("\n")[0].strip()


def prompt_of(tokenizer: "PreTrainedTokenizerBase", statement: str, chat: bool, before: str = "") -> str:
    """Return the text after which a model answers a question; the template's own special tokens are in it."""
    if not chat:
        return before + PROMPT.format(statement=statement)
    messages = [{"role": "user", "content": before + statement}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def greedy(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> "GenerationConfig":
    """Return how answers are generated: the likeliest token at each step, until the model ends."""
    from transformers import GenerationConfig

    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max_tokens,
        min_new_tokens=1,  # a chat model often ends at once after a plain prompt, whatever it knows
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted(end for end in ends if end is not None) or None,
    )


def line_ends(tokenizer: "PreTrainedTokenizerBase", length: int) -> "StoppingCriteria":
    """Return a criterion that stops a row once its answer's first line is written."""
    import torch
    from transformers import StoppingCriteria

    class LineEnds(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
            ended = ["\n" in text.lstrip() for text in _texts(tokenizer, input_ids[:, length:])]
            return torch.tensor(ended, device=input_ids.device)

    return LineEnds()


def _texts(tokenizer: "PreTrainedTokenizerBase", ids: "torch.Tensor") -> list[str]:
    return list(tokenizer.batch_decode(ids, skip_special_tokens=True))
