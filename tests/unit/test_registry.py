"""Versions, and the pointer to the one in production: on a folder and on an S3 server."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telellm import cli
from telellm.models import describe_models, describe_version
from telellm.recipe import RecipeError
from telellm.registry import PointerMoved, Production, missing, production, promote, rollback
from telellm.store import Store, TornOutput

WHO = {"by": "a test", "why": "it is better", "at": "2026-11-01T02:00:00Z"}


def add(store: Store, folder: Path, version: str, passed: bool = True, name: str = "telecom") -> None:
    """A version whose model is an output of a stage."""
    (folder / version / "model").mkdir(parents=True)
    (folder / version / "model" / "config.json").write_text(version)
    place = f"stages/instruct/{version}"
    if store.manifest(place) is None:
        store.commit(place, folder / version, {"content": version, "stage": "instruct"})
    (folder / f"{version}-card").mkdir()
    (folder / f"{version}-card" / "recipe.yaml").write_text("name: telecom")
    said = "gains +1.00 on base" if passed else "does not surely gain on base"
    gate = {"promoted": passed, "reason": said, "criteria": [{"name": "gain", "passed": passed, "said": said}]}
    manifest = {"name": name, "version": version, "made_at": f"2026-11-0{len(version)}T02:00:00Z", "run": "r"}
    manifest |= {"model": place, "outputs": {"instruct": {"place": place, "content": version}}, "gate": gate}
    store.commit(f"models/{name}/{version}", folder / f"{version}-card", manifest)


def versions_of(pointer: Production | None) -> list[str]:
    return [move.version for move in pointer.moves] if pointer else []


def test_a_version_is_promoted_with_who_when_why_and_the_version_before(store: Store, tmp_path: Path) -> None:
    add(store, tmp_path, "v1")
    add(store, tmp_path, "v2")
    assert production(store, "telecom") is None
    promote(store, "telecom", "v1", before=None, **WHO)
    pointer = promote(store, "telecom", "v2", before="v1", **WHO)
    assert (pointer.version, pointer.line) == ("v2", ("v1", "v2"))
    said = json.loads(store.read("models/telecom/production.json"))
    assert {"version": "v2", "before": "v1", "action": "promote", **WHO}.items() <= said.items()
    assert said["model"] == f"{store.uri}/stages/instruct/v2/model"
    assert [move["version"] for move in said["moves"]] == ["v1", "v2"]


def test_a_pointer_that_moved_meanwhile_is_not_moved_again(store: Store, tmp_path: Path) -> None:
    for version in ("v1", "v2", "v3"):
        add(store, tmp_path, version)
    promote(store, "telecom", "v1", before=None, **WHO)
    promote(store, "telecom", "v2", before="v1", **WHO)
    with pytest.raises(PointerMoved, match="v2 is in production, and no longer v1: v3 was not compared with it"):
        promote(store, "telecom", "v3", before="v1", **WHO)
    assert promote(store, "telecom", "v2", before="v1", **WHO).moves[-1].version == "v2"  # tried again: nothing moves
    assert versions_of(production(store, "telecom")) == ["v1", "v2"]


@pytest.mark.parametrize("before", [None, "v0"])
def test_of_two_promotions_at_once_one_wins(store: Store, tmp_path: Path, before: str | None) -> None:
    for version in ("v0", "v1", "v2"):
        add(store, tmp_path, version)
    if before:
        promote(store, "telecom", before, before=None, **WHO)
    together = threading.Barrier(2)

    def night(version: str) -> str:
        together.wait()
        try:
            return promote(Store.open(store.uri), "telecom", version, before=before, **WHO).version
        except PointerMoved:
            return "overtaken"

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(night, ("v1", "v2")))
    pointer = production(store, "telecom")
    assert pointer is not None and said.count("overtaken") == 1
    assert pointer.version == next(version for version in said if version != "overtaken")
    assert len(pointer.moves) == (2 if before else 1)


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("promote"), st.integers(0, 3)),
        st.tuples(st.just("stale"), st.integers(0, 3)),
        st.tuples(st.just("rollback"), st.just(0)),
        st.tuples(st.just("to"), st.integers(0, 3)),
    ),
    max_size=12,
)


def check_moves(store: Store, name: str, moves: list[tuple[str, int]]) -> None:
    """Every sequence of moves leaves the pointer where a stack of versions would, and a history that only grows."""
    stack: list[str] = []
    history = 0
    for action, number in moves:
        version = f"v{number}"
        top = stack[-1] if stack else None
        try:
            if action == "promote":
                promote(store, name, version, before=top, **WHO)
                stack += [version] if version != top else []
            elif action == "stale":
                promote(store, name, version, before="another", **WHO)
                assert version == top
            else:
                rollback(store, name, version if action == "to" else "", **WHO)
                if action == "rollback":
                    stack.pop()
                elif version != top:
                    earlier = stack[:-1]
                    stack = stack[: len(earlier) - earlier[::-1].index(version)]
        except PointerMoved:
            assert action == "stale" and version != top
        except RecipeError:
            assert action in ("rollback", "to") and (len(stack) < 2 or version not in stack[:-1])
        pointer = production(store, name)
        assert (list(pointer.line) if pointer else []) == stack
        seen = pointer.moves if pointer else ()
        assert len(seen) in (history, history + 1)
        history = len(seen)
        for one, after in pairwise(seen):
            assert after.before == one.version


@pytest.fixture(scope="module")
def folder_with_versions(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("versions")
    store = Store.open(str(folder / "store"))
    for number in range(4):
        add(store, folder, f"v{number}")
    return store


@given(moves=MOVES)
def test_the_history_of_production_is_a_line_that_rollbacks_go_back_on(
    folder_with_versions: Store, moves: list[tuple[str, int]]
) -> None:
    folder_with_versions.remove("models/telecom/production.json")
    check_moves(folder_with_versions, "telecom", moves)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=MOVES)
def test_the_history_of_production_in_a_bucket_is_that_of_a_folder(
    bucket_uri: str, tmp_path: Path, moves: list[tuple[str, int]]
) -> None:
    store = Store.open(bucket_uri)
    if not store.exists("models/telecom/v3/manifest.json"):
        for number in range(4):
            add(store, tmp_path / "made", f"v{number}")
    store.remove("models/telecom/production.json")
    check_moves(store, "telecom", moves)


def test_a_refused_version_never_becomes_production(directory_store: Store, tmp_path: Path) -> None:
    add(directory_store, tmp_path, "v1", passed=False)
    with pytest.raises(RecipeError, match="the gate refused it, so it never becomes production: does not surely gain"):
        promote(directory_store, "telecom", "v1", before=None, **WHO)
    assert production(directory_store, "telecom") is None


def test_a_version_whose_model_is_not_whole_is_not_promoted(directory_store: Store, tmp_path: Path) -> None:
    add(directory_store, tmp_path, "v1")
    directory_store.remove("stages/instruct/v1/model/config.json")
    with pytest.raises(TornOutput, match=r"v1 is not whole: instruct: stages/instruct/v1/model/config.json is gone"):
        promote(directory_store, "telecom", "v1", before=None, **WHO)
    directory_store.delete("stages/instruct/v1")
    assert list(missing(directory_store, directory_store.manifest("models/telecom/v1") or {})) == [
        "instruct: stages/instruct/v1 is gone"
    ]


def test_a_damaged_pointer_is_named(directory_store: Store) -> None:
    back = dict(WHO, version="v1", before="v2", action="rollback")
    lost = json.dumps({"moves": [back]}).encode()
    for content in (b"{", b"{}", b'{"moves": [{"version": 1, "else": 2}]}', b'{"moves": []}', b"[" * 100_000, lost):
        directory_store.write("models/telecom/production.json", content)
        with pytest.raises(TornOutput, match=r"production.json is damaged; put an earlier copy of it back"):
            production(directory_store, "telecom")


def test_rollbacks_that_lead_nowhere_are_told(directory_store: Store, tmp_path: Path) -> None:
    store = directory_store
    with pytest.raises(RecipeError, match=r"telecom has no version in production\n  known models: none"):
        rollback(store, "telecom", **WHO)
    for version in ("v1", "v2"):
        add(store, tmp_path, version)
    promote(store, "telecom", "v1", before=None, **WHO)
    with pytest.raises(RecipeError, match="there is no version before v1 to go back to"):
        rollback(store, "telecom", **WHO)
    promote(store, "telecom", "v2", before="v1", **WHO)
    with pytest.raises(RecipeError, match=r'"v7" was not in production before v2\n  earlier versions: v1'):
        rollback(store, "telecom", "v7", **WHO)
    store.delete("models/telecom/v1")
    with pytest.raises(RecipeError, match=r"retention removed it; more are kept with retention.versions"):
        rollback(store, "telecom", **WHO)


def test_models_are_listed_shown_promoted_and_rolled_back(
    directory_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def telellm(*arguments: str) -> tuple[int, str]:
        code = cli.main(["models", *arguments, "--store", directory_store.uri])
        said = capsys.readouterr()
        return code, said.out + said.err

    assert telellm("list") == (0, f"{directory_store.uri} has no models yet; telellm run RECIPE --pipeline nightly\n")
    for version, passed in (("v1", True), ("v22", True), ("v333", False), ("v4444", True)):
        add(directory_store, tmp_path, version, passed)
    assert telellm("promote", "telecom", "v1", "--why", "first") == (0, "telecom v1 is in production (before: none)\n")
    assert telellm("promote", "telecom", "v22", "--why", "better")[1] == "telecom v22 is in production (before: v1)\n"
    assert telellm("promote", "telecom", "v22", "--why", "again")[1] == "telecom v22 is in production already\n"
    states = [line.split()[1:3] for line in telellm("list")[1].splitlines()]
    assert states == [["v4444", "passed"], ["v333", "refused"], ["v22", "production"], ["v1", "earlier"]]
    code, said = telellm("rollback", "telecom", "--why", "wrong about HARQ", "--by", "ada")
    assert (code, said) == (0, "telecom v1 is in production (before: v22)\n")
    code, said = telellm("show", "telecom")
    assert code == 0 and said.startswith("telecom v1: production\n") and "lineage.json (whole)" in said
    assert "rollback v22 → v1, by ada: wrong about HARQ" in said.splitlines()[-3]
    assert telellm("show", "telecom", "v22")[1].startswith("telecom v22: rolled back\n")
    for arguments, mistake in (
        (("promote", "telecom", "v333", "--why", "x"), "the gate refused it"),
        (("promote", "telecom", "v9", "--why", "x"), 'has no version "v9"\n  known versions: v1, v22, v333, v4444'),
        (("rollback", "telecom", "--why", "x"), "there is no version before v1"),
        (("show", "telekom"), "there is no model telekom\n  known models: telecom"),
        (("list", "telekom"), "there is no model telekom\n  known models: telecom"),
    ):
        code, said = telellm(*arguments)
        assert code == 2 and said.startswith("error: models: ") and mistake in said


def test_what_is_shown_says_what_is_broken(directory_store: Store, tmp_path: Path) -> None:
    add(directory_store, tmp_path, "v1")
    promote(directory_store, "telecom", "v1", before=None, **WHO)
    directory_store.delete("stages/instruct/v1")
    assert any("1 missing, first: instruct: stages" in line for line in describe_version(directory_store, "telecom"))
    directory_store.delete("models/telecom/v1")
    assert next(iter(describe_models(directory_store, ["telecom"]))).endswith("its version is gone: roll back")
