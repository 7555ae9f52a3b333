"""A hub's model comes into the store without the hub's client, as it came with it; what goes wrong is said."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from telellm.lm import hub
from telellm.lm.hub import copy_from_hub
from telellm.lm.models import load_model, model_digest, model_directory
from telellm.recipe import RecipeError
from telellm.stage import StageFailed
from telellm.store import InvalidStore, Store
from tests.hub_server import COMMIT, HubServer
from tests.tiny_model import make_tiny_model
from tests.unit.test_images import packages_of, requirements

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_model(tmp_path_factory.mktemp("hub") / "model")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("words")
    return folder


@pytest.fixture
def serve(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., HubServer]]:
    servers = []

    def start(**options: object) -> HubServer:
        servers.append(HubServer({"owner/tiny": model}, **options))  # type: ignore[arg-type]
        monkeypatch.setenv("HF_ENDPOINT", servers[-1].url)
        return servers[-1]

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(hub, "PAUSE_SECONDS", 0)
    yield start
    for server in servers:
        server.close()


def copied(store: Store, revision: str = "main", name: str = "owner/tiny") -> Path:
    copy_from_hub(name, revision, store, "base-models/x/tiny", {"content": f"{name}@{revision}", "name": name})
    return model_directory(f"{store.uri}/base-models/x/tiny")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_of_the_hub_is_in_the_store_as_it_is_there_without_pickles(
    serve: Callable[..., HubServer], model: Path, store: Store
) -> None:
    serve()
    store.write("base-models/x/tiny/left-over.json", b"{}")
    found = contents(copied(store))
    assert found == {name: data for name, data in contents(model).items() if not name.endswith((".bin", ".md"))}
    manifest = store.manifest("base-models/x/tiny")
    assert manifest and (manifest["commit"], manifest["content"]) == (COMMIT, "owner/tiny@main")
    assert model_digest(f"{store.uri}/base-models/x/tiny") == model_digest("owner/tiny")
    assert load_model(f"{store.uri}/base-models/x/tiny").num_parameters() > 0


def test_the_hubs_own_client_reads_the_same_from_the_same_server(
    serve: Callable[..., HubServer], tmp_path: Path
) -> None:
    """So that the server of these tests is one."""
    server = serve(token="let-me-in")
    code = "import sys; from telellm.lm.models import model_directory; print(model_directory('owner/tiny'))"
    settings = {"HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "let-me-in", "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0"}
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env=os.environ | settings, stdout=subprocess.PIPE, text=True
    )
    theirs = contents(Path(said.stdout.strip()))
    os.environ["HF_TOKEN"] = "let-me-in"
    try:
        assert contents(copied(Store.open(str(tmp_path / "store")))) == theirs
    finally:
        del os.environ["HF_TOKEN"]


def test_a_file_that_breaks_off_is_read_again_and_a_wrong_one_is_never_taken(
    serve: Callable[..., HubServer], model: Path, store: Store
) -> None:
    server = serve(damaged=2)
    assert contents(copied(store))["model.safetensors"] == (model / "model.safetensors").read_bytes()
    server.damaged = 3
    store.delete("base-models/x/tiny")
    with pytest.raises(StageFailed, match=r"model\.safetensors cannot be read from the hub"):
        copied(store)
    assert store.manifest("base-models/x/tiny") is None


@pytest.mark.parametrize(
    ("name", "revision", "token", "error", "said"),
    [
        ("owner/none", "main", "", RecipeError, "has no such model at revision main"),
        ("owner/tiny", "v2", "", RecipeError, "has no such model at revision v2"),
        ("owner/tiny", "main", "let-me-in", RecipeError, "set HF_TOKEN"),
        ("no name/at all", "main", "", RecipeError, "is neither a folder nor a hub name"),
        ("owner/pickles", "main", "", RecipeError, r"has no config\.json or no \.safetensors"),
    ],
)
def test_what_the_hub_does_not_have_or_give_is_said(
    serve: Callable[..., HubServer], tmp_path: Path, name: str, revision: str, token: str, error: type, said: str
) -> None:
    server = serve(token=token)
    server.models["owner/pickles"] = tmp_path / "pickles"
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles/config.json").write_text("{}")
    with pytest.raises(error, match=said):
        copied(Store.open(str(tmp_path / "store")), revision, name)


def test_a_hub_that_does_not_answer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StageFailed, match=r"does not answer .*\n  put the model into a bucket"):
        copied(Store.open(str(tmp_path / "store")))


def test_a_name_that_would_leave_the_models_folder_is_refused(
    serve: Callable[..., HubServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    entry = server._entry
    evil = {"tokenizer.json": "../../tokenizer.json"}
    monkeypatch.setattr(server, "_entry", lambda path, name: entry(path, evil.get(name, name)))
    with pytest.raises(InvalidStore, match="would leave the store"):
        copied(Store.open(str(tmp_path / "store")))


def test_a_run_starts_in_the_launchers_image_from_a_model_of_the_hub(
    serve: Callable[..., HubServer], model: Path, tmp_path: Path
) -> None:
    server = serve()
    held = packages_of("launcher", "pipelines")
    lacks = [
        name
        for name, packages in packages_distributions().items()
        if not {requirements.normal(package) for package in packages} & {*held, "telellm"}
    ]
    assert {"huggingface_hub", "torch", "transformers", "pyarrow", "numpy"} <= set(lacks)
    code = f"""
import sys
sys.modules.update(dict.fromkeys({lacks!r}))
from telellm.recipe import parse
from telellm.runs import share
from telellm.store import InvalidStore, Store
changes = ["training.instruct.method=chat-vector", "training.instruct.vendor=owner/tiny"]
recipe = parse("name: a\\nmodel: {{name: owner/tiny}}\\nsources: {{b: {{category: web, path: /c}}}}", changes=changes)
shared = share(recipe, Store.open({str(tmp_path / "store")!r}))
print(shared.model.name, shared.training.instruct.vendor)
"""
    said = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=ROOT,
        env=os.environ | {"HF_ENDPOINT": server.url, "TELELLM_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        text=True,
    )
    name, vendor = said.stdout.split()
    assert name == vendor and name.startswith((tmp_path / "store").as_uri())
    assert json.loads((model_directory(name) / "config.json").read_text()) == json.loads(
        (model / "config.json").read_text()
    )
    assert server.asked.count(f"GET owner/tiny/resolve/{COMMIT}/model.safetensors") == 1, "it is copied once"


@pytest.mark.parametrize(
    "content",
    [
        b"<html>log in</html>",
        b"[1]",
        b"[" * 100_000,
        b'{"sha": "../../main", "siblings": []}',
        b'{"sha": 1}',
        b'{"siblings": [{"rfilename": "config.json"}]}',
        b'{"sha": "%s", "siblings": [{"rfilename": ["config.json"]}]}' % COMMIT.encode(),
        b'{"sha": "%s", "siblings": [{"rfilename": "config.json", "size": "large"}]}' % COMMIT.encode(),
        b'{"sha": "%s", "siblings": [{"rfilename": "config.json", "size": -1}]}' % COMMIT.encode(),
        b" " * (2**24 + 1),
    ],
    ids=lambda content: content[:40],
)
def test_a_list_that_is_none_is_said(
    serve: Callable[..., HubServer], store: Store, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    serve()
    monkeypatch.setattr(hub, "_asked", lambda *given: io.BytesIO(content))
    with pytest.raises(StageFailed, match="is no list of files"):
        copied(store)
    assert store.manifest("base-models/x/tiny") is None


def test_a_models_own_manifest_does_not_make_it_seem_whole(
    serve: Callable[..., HubServer], model: Path, tmp_path: Path, directory_store: Store
) -> None:
    server = serve(damaged=3)
    server.models["owner/tiny"] = shutil.copytree(model, tmp_path / "with")
    (tmp_path / "with" / "manifest.json").write_text('{"files": {}, "content": "not ours"}')
    with pytest.raises(StageFailed, match="cannot be read"):
        copied(directory_store)
    assert directory_store.manifest("base-models/x/tiny") is None
    copied(directory_store)
    manifest = directory_store.manifest("base-models/x/tiny")
    assert manifest and manifest["content"] == "owner/tiny@main" and "manifest.json" not in manifest["files"]


@pytest.mark.parametrize("what", ["size", "blobId"])
def test_a_small_file_that_is_not_the_listed_one_is_refused(
    serve: Callable[..., HubServer], directory_store: Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    server = serve()
    entry = server._entry
    wrong = {"size": 3, "blobId": "0" * 40}[what]
    monkeypatch.setattr(server, "_entry", lambda path, name: entry(path, name) | {what: wrong})
    with pytest.raises(StageFailed, match=r"cannot be read from the hub .*not those of the hub's list"):
        copied(directory_store)
    assert directory_store.manifest("base-models/x/tiny") is None


def test_git_digests_of_small_files_are_checked_as_the_hub_tells_them(
    serve: Callable[..., HubServer], model: Path, directory_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    entry = server._entry

    def real(path: Path, name: str) -> dict[str, object]:
        command = ["git", "hash-object", "--no-filters", str(path)]
        return entry(path, name) | {"blobId": subprocess.run(command, check=True, stdout=-1, text=True).stdout.strip()}

    monkeypatch.setattr(server, "_entry", real)
    assert (copied(directory_store) / "config.json").read_bytes() == (model / "config.json").read_bytes()


def test_a_token_with_a_line_end_is_sent_whole_and_never_shown(
    serve: Callable[..., HubServer], directory_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(token="let-me-in")
    monkeypatch.setenv("HF_TOKEN", "let-me\n-in\n")
    assert (copied(directory_store) / "config.json").exists()
