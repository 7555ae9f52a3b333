"""Documents and questions: ids, digests, Arrow."""

import json
import subprocess
import sys
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.records import Document, Question, Rejected, from_batch, rejected_row, schema, to_table, whole

ANY_TEXT = st.text(st.characters(), max_size=30)
"""Any code points, half surrogates among them."""
HALF = "half \ud83d of a pair"


@given(ANY_TEXT, ANY_TEXT, st.dictionaries(st.sampled_from(["title", "licence", "file_name"]), ANY_TEXT))
def test_any_document_comes_back_from_arrow_as_it_was(key, content, metadata):
    document = Document.create("web", key, content, **metadata)
    batch = to_table([document], Document).to_batches()[0]
    assert list(from_batch(batch, Document)) == [document]
    assert document.fields["sha256"] == sha256(document.content.encode()).hexdigest()


@given(st.lists(ANY_TEXT, min_size=5, max_size=5))
def test_any_question_goes_to_arrow(texts):
    batch = to_table([Question(*texts)], Question).to_batches()[0]
    assert list(from_batch(batch, Question)) == [Question(*map(whole, texts))]


@given(st.text())
def test_valid_text_is_kept_as_it_is(text):
    assert Document.create("wiki", "a", text).content == text


def test_half_a_surrogate_becomes_a_replacement_character_and_a_pair_is_joined():
    assert Document.create("web", "a", HALF).content == "half � of a pair"
    assert Document.create("web", "a", "\ud83d\ude00").content == "😀"
    assert Document.create("web", "a", "x").with_content(HALF).content == "half � of a pair"
    assert Document.create("web", "a", "x").with_fields(title=HALF).fields["title"] == "half � of a pair"


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.lists(st.text()))), st.randoms())
def test_the_order_of_metadata_does_not_change_a_document(metadata, random):
    metadata.pop("category", None), metadata.pop("key", None), metadata.pop("content", None)
    shuffled = list(metadata.items())
    random.shuffle(shuffled)
    first = Document("web_a", "web", "x", "{}").with_fields(**metadata) if metadata else None
    if first is not None:
        assert first == Document("web_a", "web", "x", "{}").with_fields(**dict(shuffled))
        assert list(json.loads(first.metadata)) == sorted(json.loads(first.metadata))


def test_a_changed_text_has_another_digest_and_keeps_the_other_fields():
    document = Document.create("arxiv", "2409.05314", "before", title="Tele-LLMs")
    changed = document.with_content("after")
    assert (changed.id, changed.fields["title"]) == ("arxiv_2409.05314", "Tele-LLMs")
    assert changed.fields["sha256"] == sha256(b"after").hexdigest() != document.fields["sha256"]


def test_an_unknown_category_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match='"blog" is not a category; known categories: arxiv, standard, wiki, web'):
        Document.create("blog", "a", "x")


def test_the_columns_are_those_of_the_published_data_sets():
    assert schema(Document).names == ["id", "category", "content", "metadata"]
    assert schema(Question).names[:3] == ["statement", "answer", "id"]


def test_a_document_is_the_same_in_any_process():
    code = (
        "from telellm.records import Document\n"
        "print(Document.create('web', 'ключ', 'Öffnung \\ud83d', b=[1, 'x'], a={'z': 1, 'y': 2}))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(seen) == 1 and b"Document(id=" in seen.pop()


def test_a_rejected_item_is_a_row_of_text_whatever_it_was():
    row = rejected_row(Rejected({"file": "caf\udce9.doc", "size": 3}, "not a Word file", HALF))
    assert row["id"] == "caf�.doc" and row["reason"] == "not a Word file" and "�" in row["detail"]
    assert json.loads(row["item"]) == {"file": "caf�.doc", "size": 3}
    assert "".join(row.values()).encode()
    document = Document.create("web", "a", "text")
    assert rejected_row(Rejected(document, "too short"))["id"] == "web_a"
