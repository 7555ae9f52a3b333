from pathlib import Path

import pytest
import torch

from telellm.lm import open_language_model
from telellm.lm.local import LocalModel
from telellm.recipe import LanguageModel, Model
from tests.tiny_model import make_tiny_model

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PROMPTS = ["What is a cell?", "Name the neighbour of the carrier that the scheduler allocates in a slot.", "Why?"]
EXAMPLES = [("Is a slot long?", "No"), ("Is a gNB a station?", "Yes")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def open_model(folder: Path, template: str | None = TEMPLATE, **settings: int) -> LocalModel:
    model = LocalModel(LanguageModel.model_validate(settings), str(folder), "main")
    model.tokenizer.chat_template = template
    return model


def log_likelihood(model: LocalModel, before: list[int], after: list[int]) -> float:
    with torch.inference_mode():
        logits = model.model(input_ids=torch.tensor([before + after])).logits[0].log_softmax(-1)
    return float(sum(logits[len(before) - 1 + at, token] for at, token in enumerate(after)))


def test_choice_is_the_softmax_of_each_options_log_likelihood(folder: Path) -> None:
    model = open_model(folder, batch_size=2)
    options = ["Yes", "No", "the neighbour cell"]
    choices = model.choose(PROMPTS, options, system="Answer.", examples=EXAMPLES)
    for prompt, choice in zip(PROMPTS, choices, strict=True):
        messages = [{"role": "system", "content": "Answer."}]
        for asked, answered in EXAMPLES:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        messages.append({"role": "user", "content": prompt})
        text = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = model.tokenizer(text, add_special_tokens=False).input_ids
        scores = torch.tensor(
            [log_likelihood(model, ids, model.tokenizer(o, add_special_tokens=False).input_ids) for o in options]
        )
        assert [choice[o] for o in options] == pytest.approx(scores.softmax(-1).tolist(), abs=1e-4)
        assert choice.mass == pytest.approx(float(scores.exp().sum()), rel=1e-3)
        assert choice.best == options[int(scores.argmax())]


def test_answers_do_not_depend_on_what_is_asked_beside_them(folder: Path) -> None:
    model = open_model(folder, batch_size=3)
    together = model.generate(PROMPTS, 12, system="Answer at some length.")
    alone = [model.generate([prompt], 12, system="Answer at some length.")[0] for prompt in PROMPTS]
    assert together == alone
    assert all(together)


def test_an_answer_is_the_models_greedy_continuation(folder: Path) -> None:
    model = open_model(folder)
    ids = model.tokenizer(f"<user>{PROMPTS[0]}<|end|><assistant>", add_special_tokens=False).input_ids
    expected: list[int] = []
    for _ in range(8):
        with torch.inference_mode():
            logits = model.model(input_ids=torch.tensor([ids + expected])).logits
        expected.append(int(logits[0, -1].argmax()))
    answer = model.generate(PROMPTS[:1], 8)[0]
    assert answer == model.tokenizer.decode(expected, skip_special_tokens=True).strip()


def test_an_answer_ends_before_a_stop_mark(folder: Path) -> None:
    model = open_model(folder)
    answer = model.generate(PROMPTS[:1], 12)[0]
    mark = answer[3]
    assert model.generate(PROMPTS[:1], 12, stop=[mark])[0] == answer[: answer.index(mark)].strip()


def test_tokens_are_counted(folder: Path) -> None:
    model = open_model(folder)
    model.generate(PROMPTS, 5)
    lengths = [len(model.tokenizer(f"<user>{p}<|end|><assistant>").input_ids) for p in PROMPTS]
    assert model.usage["prompt_tokens"] == sum(lengths)
    assert 0 < model.usage["completion_tokens"] <= 15


def test_a_long_prompt_loses_its_middle(folder: Path) -> None:
    model = open_model(folder, context_tokens=128)
    words = " ".join(f"w{number}" for number in range(400))
    [ids] = model._tokenize([words], "", (), room=28)
    text = model.tokenizer.decode(ids)
    assert len(ids) == 100
    assert text.startswith("<user>w0 w1")
    assert text.endswith("w399<|end|><assistant>")


def test_a_model_without_a_chat_template_gets_plain_paragraphs(folder: Path) -> None:
    model = open_model(folder, template=None)
    assert model._render("Ask", "Rule", [("a", "b")]) == "Rule\n\na\nb\n\nAsk\n"
    assert sum(model.choose(["Ask"], ["Yes", "No"])[0].probabilities.values()) == pytest.approx(1)


def test_a_template_that_refuses_a_system_message_gets_it_in_the_first_question(folder: Path) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    model = open_model(folder, template=refusing)
    assert model._render("Ask", "Rule", [("a", "b")]) == (
        "<user>Rule\n\na<|end|><assistant>b<|end|><user>Ask<|end|><assistant>"
    )


def test_no_prompts_give_no_answers(folder: Path) -> None:
    model = open_model(folder)
    assert model.generate([], 5) == []
    assert model.choose([], ["Yes", "No"]) == []


def test_the_same_model_is_loaded_once(folder: Path) -> None:
    settings, base = LanguageModel.model_validate({"batch_size": 3}), Model(name=str(folder))
    assert open_language_model(settings, base) is open_language_model(settings, Model(name=str(folder)))
