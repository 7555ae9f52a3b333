"""A model in the store: put there from this machine, read from there by others, the same model all the while."""

from pathlib import Path

import pytest

from telellm.directory import DirectoryStore
from telellm.lm.models import load_tokenizer, model_digest, model_directory, share_model
from telellm.recipe import RecipeError
from telellm.store import InvalidStore, Store, TornOutput
from tests.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("shared") / "model")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_shared_model_is_the_same_model(model: Path, store: Store) -> None:
    address = share_model(str(model), "main", store)
    assert address.startswith(f"{store.uri}/base-models/") and address.endswith("/model")
    assert model_digest(address) == model_digest(str(model))
    assert contents(model_directory(address)) == contents(model)
    assert load_tokenizer(address).eos_token == "<|end|>"
    assert share_model(str(model), "main", store) == address


def test_a_model_that_an_administrator_put_into_a_bucket_is_read(model: Path, store: Store) -> None:
    for path in model.iterdir():
        store.upload(f"models-of-ours/tiny/{path.name}", path)
    address = f"{store.uri}/models-of-ours/tiny"
    assert contents(model_directory(address)) == contents(model)
    before = model_digest(address)
    store.write("models-of-ours/tiny/config.json", b"{}")
    assert model_digest(address) != before


def test_a_shared_model_that_was_changed_is_refused(model: Path, store: Store) -> None:
    address = share_model(str(model), "main", store)
    store.write(f"{address.removeprefix(store.uri + '/')}/config.json", b"{}")
    with pytest.raises(TornOutput, match=r"config.json is not the file that its manifest names"):
        model_directory(address)


def test_a_place_without_a_model_is_named(store: Store) -> None:
    with pytest.raises(RecipeError, match=r"model: .*/nothing: no model is there"):
        model_directory(f"{store.uri}/nothing")


@pytest.mark.parametrize("name", ["/etc/passwd", "a/../../b", "a//b"])
def test_a_name_in_a_bucket_that_leaves_the_models_folder_is_refused(
    model: Path, directory_store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """S3 allows such keys; of the servers of these tests none keeps them."""
    directory_store.commit("models/x", model, {})
    stamps = list(directory_store.stamps("models/x"))
    monkeypatch.setattr(DirectoryStore, "stamps", lambda store, prefix: iter([*stamps, (f"x/{name}", "1")]))
    written = []
    monkeypatch.setattr(DirectoryStore, "download", lambda store, key, path: written.append(path))
    monkeypatch.setattr(DirectoryStore, "manifest", lambda store, prefix: None)
    stamps[:] = [(key.removeprefix("models/"), stamp) for key, stamp in stamps]
    with pytest.raises(InvalidStore, match="leaves its folder"):
        model_directory(f"{directory_store.uri}/models/x")
    assert not written


def test_what_a_manifest_does_not_name_is_no_part_of_a_model(model: Path, store: Store) -> None:
    store.commit("models/x", model, {"content": "c"})
    store.write("models/x/extra.json", b"{}")
    assert not (model_directory(f"{store.uri}/models/x") / "extra.json").exists()
