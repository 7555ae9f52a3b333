from pathlib import Path

import pytest
import torch

from telellm.evaluation.perplexity import PROMPT, encode, measure_answers
from telellm.lm.models import load_model, load_tokenizer
from telellm.records import Question
from tests.tiny_model import make_tiny_model

QUESTIONS = [
    Question("What is a slot?", "A part of a carrier.", "web_1"),
    Question("Who hands the user equipment over, and when does that happen?", "The gNB.", "web_2"),
    Question("Why?", "Because the reference signal of the neighbour cell is stronger than its own.", "web_3"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def test_the_likelihood_of_an_answer_is_that_of_its_tokens_after_the_prompt(folder: Path) -> None:
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    asked: list[int] = []
    found = measure_answers(model, tokenizer, QUESTIONS, 2, asked.append)
    assert sum(asked) == len(QUESTIONS)
    for question, likelihood in zip(QUESTIONS, found, strict=True):
        prompt = tokenizer(PROMPT.format(statement=question.statement))["input_ids"]
        answer = tokenizer(f" {question.answer}", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            scores = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        expected = -sum(float(scores[len(prompt) - 1 + at, token]) for at, token in enumerate(answer))
        assert likelihood.tokens == len(answer)
        assert likelihood.nll == pytest.approx(expected, rel=1e-4)


def test_the_prompt_is_the_papers() -> None:
    assert PROMPT.format(statement="Why?") == (
        "The following is a question about telecommunications and networking.\nQuestion: Why?\nAnswer:"
    )


def test_a_first_token_of_the_tokenizer_stands_once_and_in_front(folder: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(str(folder))
    plain, begin = encode(tokenizer, QUESTIONS[0])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(  # type: ignore[attr-defined]
        single="<|end|> $A", special_tokens=[("<|end|>", 0)]
    )
    assert encode(tokenizer, QUESTIONS[0]) == ([0, *plain], begin + 1)
    assert tokenizer.decode(plain[begin:]) == " A part of a carrier."
