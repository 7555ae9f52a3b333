import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from telellm import registry
from telellm.recipe import RecipeError
from telellm.serving import production_files
from telellm.serving.production_files import fetch
from telellm.store import Store, TornOutput

WHO = {"by": "test", "why": "test", "at": "2026-01-01T00:00:00Z"}
EXAMPLE = {"statement": "What is a cell?", "answer": "An area.", "kind": "definition"}


@pytest.fixture
def versions(store: Store, tmp_path: Path) -> Store:
    """A store with two versions; none is in production."""
    for version in ("v1", "v2"):
        folder = tmp_path / version
        (folder / "out" / "model").mkdir(parents=True)
        (folder / "out" / "model" / "weights.safetensors").write_text(version)
        (folder / "out" / "model" / f"only-{version}.json").write_text("{}")
        (folder / "out" / "log.jsonl").write_text("")
        (folder / "told").mkdir()
        (folder / "told" / "report.json").write_text(json.dumps({"tele_eval": {"examples": [EXAMPLE]}}))
        store.commit(f"stages/instruct/{version}", folder / "out", {"content": version})
        manifest = {"name": "telecom", "version": version, "made_at": version, "run": "r", "outputs": {}}
        manifest |= {"model": f"stages/instruct/{version}", "content": version}
        store.commit(
            f"models/telecom/{version}", folder / "told", manifest | {"gate": {"promoted": True, "reason": ""}}
        )
        shutil.rmtree(folder)
    return store


def test_the_model_in_production_becomes_a_folder_with_a_question(versions: Store, tmp_path: Path) -> None:
    registry.promote(versions, "telecom", "v1", before=None, **WHO)
    assert fetch(versions, "telecom", tmp_path / "there", False, print) == "v1"
    assert (tmp_path / "there/model/weights.safetensors").read_text() == "v1"
    assert not (tmp_path / "there/log.jsonl").exists()
    question = json.loads((tmp_path / "there/question.json").read_text())
    assert question == {"statement": "What is a cell?", "answer": "An area."}


def test_another_version_replaces_the_folder_and_what_is_whole_is_not_read_again(
    versions: Store, tmp_path: Path
) -> None:
    there, said = tmp_path / "there", []
    registry.promote(versions, "telecom", "v1", before=None, **WHO)
    fetch(versions, "telecom", there, False, said.append)
    fetch(versions, "telecom", there, False, said.append)
    assert len(said) == 2
    registry.promote(versions, "telecom", "v2", before="v1", **WHO)
    assert fetch(versions, "telecom", there, False, said.append) == "v2"
    assert sorted(path.name for path in (there / "model").iterdir()) == ["only-v2.json", "weights.safetensors"]
    assert json.loads((there / "version.json").read_text())["version"] == "v2"


def test_a_file_that_is_not_the_manifests_is_refused(versions: Store, tmp_path: Path) -> None:
    registry.promote(versions, "telecom", "v1", before=None, **WHO)
    versions.write("stages/instruct/v1/model/weights.safetensors", b"other")
    with pytest.raises(TornOutput, match="not the file that its manifest names"):
        fetch(versions, "telecom", tmp_path / "there", False, print)
    assert not (tmp_path / "there/version.json").exists()


def test_it_can_wait_for_the_first_version(versions: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="telecom has no version in production"):
        fetch(versions, "telecom", tmp_path / "there", False, print)
    monkeypatch.setattr(production_files, "WAIT_SECONDS", 0.05)
    found: list[str] = []
    waiting = threading.Thread(
        target=lambda: found.append(fetch(versions, "telecom", tmp_path / "there", True, lambda text: None))
    )
    waiting.start()
    time.sleep(0.2)
    registry.promote(versions, "telecom", "v1", before=None, **WHO)
    waiting.join(30)
    assert found == ["v1"]
