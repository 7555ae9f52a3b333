"""What failed for good is not done again by Kubeflow's next attempt, and is done by who starts it anew."""

from pathlib import Path

import pytest

from telellm import runs
from telellm.attempts import NODE
from telellm.cluster.api import ClusterError
from telellm.cluster.follower import JobFailed
from telellm.store import Store

RECIPE = """
name: small
model: {{name: owner/model}}
sources:
  one: {{category: web, path: {path}}}
"""
STEP = "small-corpus-x7k2p.root.ingest.executor"


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("TELELLM_DEBUG", raising=False)
    return runs.start_run(RECIPE.format(path=tmp_path / "raw"), str(tmp_path / "store"), "monday")


def attempt(node: str, run: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Do the stage as the pod of this node does; returns the exit status and what was said."""
    monkeypatch.setenv(NODE, node)
    try:
        runs.run_stage("ingest", run)
        return 0, ""
    except SystemExit as end:
        return int(str(end.code)), capfd.readouterr().err


def test_a_wrong_input_is_told_once_more_by_the_next_attempt_and_tried_by_a_new_run(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first = attempt(f"{STEP}(0)", address, monkeypatch, capfd)
    assert first[0] == 2 and "sources.one.path" in first[1]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/page.txt").write_text("A base station serves a cell. " * 20)
    assert attempt(f"{STEP}(1)", address, monkeypatch, capfd) == first
    assert attempt(f"{STEP}(2)", address, monkeypatch, capfd) == first
    assert attempt(f"{STEP.replace('x7k2p', 'a1b2c')}(1)", address, monkeypatch, capfd)[0] == 0, "another execution"
    assert attempt(f"{STEP}(0)", address, monkeypatch, capfd)[0] == 0, "Retry in the UI"


def test_outside_kubeflow_nothing_is_noted(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert attempt("", address, monkeypatch, capfd)[0] == 2
    assert not list(Store.open(str(tmp_path / "store")).list("runs/monday/failed"))


@pytest.mark.parametrize(
    ("error", "num_started"),
    [(JobFailed("ingest: the job x failed: ErrImagePull"), 1), (ClusterError("the API server is away"), 2)],
)
def test_a_job_that_failed_is_not_started_again_but_who_lost_it_goes_on_with_it(
    error: Exception,
    num_started: int,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/page.txt").write_text("A base station serves a cell. " * 20)
    recipe = runs.open_run(address)[2].to_yaml().replace("enabled: false", "enabled: true")
    Store.open(str(tmp_path / "store")).write("runs/monday/recipe.yaml", recipe.encode())
    started = []

    def launch_stage(*work: object, **how: object) -> None:
        started.append(work)
        raise error

    monkeypatch.setattr(runs, "launch_stage", launch_stage)
    said = [attempt(f"{STEP}({number})", address, monkeypatch, capfd) for number in (0, 1)]
    assert said[0] == said[1] and said[0][0] == 1 and str(error) in said[0][1]
    assert len(started) == num_started
