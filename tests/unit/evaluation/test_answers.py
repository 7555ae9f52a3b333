from pathlib import Path

import pytest
import torch

from telellm.evaluation.answers import answer, first_line
from telellm.evaluation.perplexity import PROMPT
from telellm.lm.models import load_model, load_tokenizer
from telellm.records import Question
from tests.tiny_model import make_tiny_model

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
QUESTIONS = [Question(f"What is {'very ' * number}late?", "It.", "web_1") for number in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def ask(
    folder: Path, questions: list[Question], chat: bool, batch_size: int, template: str | None = TEMPLATE
) -> list[str]:
    tokenizer = load_tokenizer(str(folder))
    tokenizer.chat_template = template
    model = load_model(str(folder))
    return answer(
        model, tokenizer, questions, chat=chat, max_tokens=12, batch_size=batch_size, advance=lambda number: None
    )


@pytest.mark.parametrize("chat", [False, True])
def test_answers_do_not_depend_on_what_is_asked_beside_them(folder: Path, chat: bool) -> None:
    alone = [ask(folder, [question], chat, 1)[0] for question in QUESTIONS]
    assert ask(folder, QUESTIONS, chat, 3) == alone
    assert any(alone)


def test_a_chat_goes_through_the_template_and_a_plain_question_does_not(folder: Path) -> None:
    plain = ask(folder, QUESTIONS, False, 5)
    assert ask(folder, QUESTIONS, True, 5) != plain
    assert ask(folder, QUESTIONS, True, 5, template=None) == plain


def test_a_plain_answer_ends_with_its_first_line(folder: Path) -> None:
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    line_end = tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    letter = tokenizer("a", add_special_tokens=False)["input_ids"][0]
    seen: list[int] = []

    def after(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        seen.append(1)  # a newline, a letter, a newline, and then letters without end
        wanted = line_end if len(seen) in (1, 3) else letter
        scores = torch.zeros_like(output)
        scores[..., wanted] = 1
        return scores

    with model.lm_head.register_forward_hook(after):
        texts = answer(
            model, tokenizer, QUESTIONS[:1], chat=False, max_tokens=50, batch_size=1, advance=lambda number: None
        )
    assert texts == ["a"]
    assert len(seen) == 3


def test_a_model_that_would_end_at_once_says_something(folder: Path) -> None:
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))

    def prefer_the_end(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        scores = output.clone()
        scores[..., tokenizer.eos_token_id] = 1e4
        return scores

    with model.lm_head.register_forward_hook(prefer_the_end):
        output = answer(
            model, tokenizer, QUESTIONS, chat=False, max_tokens=9, batch_size=5, advance=lambda number: None
        )
    assert all(output)


def test_the_first_line_is_the_first_with_words() -> None:
    assert first_line("\n \n A cell. \nQuestion: What") == "A cell."
    assert first_line(" \n") == ""
    assert PROMPT.endswith("Answer:")
