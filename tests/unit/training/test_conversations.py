from pathlib import Path

import numpy as np
import pytest

from telellm.training.conversations import encode, gather, load_chat_tokenizer
from telellm.training.sequences import Packed, batch

TALK = [
    {"role": "user", "content": "What does a gNB do?"},
    {"role": "assistant", "content": "It serves NR cells."},
    {"role": "user", "content": "And an ng-eNB?"},
    {"role": "assistant", "content": "It serves LTE cells for a 5G core."},
]


def learnt_text(packed: Packed, tokenizer: object) -> str:
    assert packed.learnt is not None
    return str(tokenizer.decode(packed.tokens[packed.learnt]))  # type: ignore[attr-defined]


def test_a_tokenizer_without_a_template_gets_one_that_is_saved(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = load_chat_tokenizer(tiny_model)
    tokenizer.save_pretrained(tmp_path)
    text = load_chat_tokenizer(tmp_path, needed=False).apply_chat_template(TALK[:1], tokenize=False)
    assert text == "<|im_start|>user\nWhat does a gNB do?<|end|>\n"
    assert not load_chat_tokenizer(tiny_model, needed=False).chat_template


def test_only_the_assistants_words_are_learnt(tiny_model: Path) -> None:
    tokenizer = load_chat_tokenizer(tiny_model)
    packed = encode(TALK, tokenizer, 500)
    assert isinstance(packed, Packed)
    assert learnt_text(packed, tokenizer) == "It serves NR cells.<|end|>\nIt serves LTE cells for a 5G core.<|end|>\n"
    made = batch([{"tokens": packed.tokens, "lengths": packed.lengths, "learnt": packed.learnt}])
    assert made.num_targets == packed.learnt.sum()


def test_a_users_words_never_count_even_when_they_repeat_the_answer(tiny_model: Path) -> None:
    tokenizer = load_chat_tokenizer(tiny_model)
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "yes"},
        {"role": "assistant", "content": "yes"},
    ]
    packed = encode(talk, tokenizer, 500)
    assert isinstance(packed, Packed)
    assert learnt_text(packed, tokenizer) == "yes<|end|>\n"


@pytest.mark.parametrize(
    ("talk", "length", "reason"),
    [
        (TALK, 12, "no answer within the length"),
        (TALK[:1], 500, "no answer within the length"),
    ],
)
def test_what_cannot_be_learnt_from_says_why(
    tiny_model: Path, talk: list[dict[str, str]], length: int, reason: str
) -> None:
    assert encode(talk, load_chat_tokenizer(tiny_model), length) == reason


def test_a_template_that_rewrites_earlier_turns_is_noticed(tiny_model: Path) -> None:
    tokenizer = load_chat_tokenizer(tiny_model)
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert encode(TALK, tokenizer, 500) == "rewritten by the chat template"
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    assert encode(TALK, tokenizer, 500) == "not what the chat template takes"


def test_conversations_are_packed_whole() -> None:
    def talk(length: int) -> Packed:
        return Packed(np.arange(length, dtype=np.int32), [length], np.ones(length, bool))

    packed = list(gather([talk(5), talk(4), talk(3), talk(10)], 10))
    assert [p.lengths for p in packed] == [[5, 4], [3], [10]]
    assert all(len(p.tokens) == sum(p.lengths) for p in packed)
