"""What a stage is, and the digests that name its output."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.records import Document
from telellm.runs import STAGES
from telellm.stage import Output, code_version, digest_of, load, peak_rss_mib, stage, workspace


@stage(sections=("tele_eval",), produces=Document)
def ask_twice(context, settings, documents, model=None):
    """Take one input and perhaps a model."""


def test_a_stage_is_named_after_its_function_and_knows_its_inputs():
    assert (ask_twice.name, ask_twice.inputs, ask_twice.optional) == ("ask-twice", ("documents",), ("model",))
    assert not ask_twice.sharded and load(ask_twice.reference) is ask_twice


def test_what_a_stage_divides_is_no_input():
    divided = stage(sections=("corpus.ingest",), produces=Document, divide=lambda context, settings: [])(
        lambda context, settings, part: []
    )
    assert divided.inputs == () and divided.sharded


@given(st.dictionaries(st.text(), st.integers()), st.randoms())
def test_a_digest_does_not_depend_on_the_order_of_keys(values, random):
    shuffled = list(values.items())
    random.shuffle(shuffled)
    assert digest_of(values) == digest_of(dict(shuffled))


def test_a_digest_tells_sections_apart(recipe_with):
    one, two = recipe_with(), recipe_with("corpus.clean.minimum_words=51")
    assert digest_of(one.corpus.clean) == digest_of(recipe_with().corpus.clean) != digest_of(two.corpus.clean)
    assert len({digest_of("a", "b"), digest_of("ab"), digest_of(["a", "b"]), digest_of("b", "a")}) == 4


def test_the_version_of_the_code_is_the_same_each_time():
    assert code_version(ask_twice) == code_version(ask_twice) and len(code_version(ask_twice)) == 12


def test_figures_of_this_machine_are_plausible():
    assert workspace() >= 1 and 5 < peak_rss_mib() < 10**6


def test_every_stage_of_the_list_is_one_that_the_command_line_knows():
    from telellm import cli

    assert tuple(STAGES) == cli.STAGES


def test_the_names_of_an_output_are_those_of_its_manifest(directory_store):
    directory_store.write_json("a/manifest.json", {"files": {"data/b": {}, "data/a": {}, "rejects/a": {}}, "out": 7})
    output = Output.find(directory_store, "a")
    assert output.names("data/") == ["data/a", "data/b"] and output.num_records == 7 and output.summary() == {}


@pytest.mark.parametrize("place", ["../a", "/etc"])
def test_a_place_outside_the_store_is_refused(directory_store, place):
    with pytest.raises(ValueError, match="would leave the store"):
        Output.find(directory_store, place)
