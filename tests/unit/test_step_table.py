"""What a run did, as a table that Kubeflow shows."""

from telellm.step_table import write_step_table
from telellm.store import Store


def note(store, label, ended, **manifest):
    given = {"in": 0, "out": 0, "drops": {}, "seconds": 1.0, "finished_at": f"2026-11-25T0{ended}:00:00Z"}
    store.write_json(f"runs/night/stages/{label}.json", {"output": "x", "manifest": given | manifest})


def test_each_step_is_a_row_in_the_order_in_which_they_ended(tmp_path):
    store = Store.open(str(tmp_path / "store"))
    store.write("runs/night/recipe.yaml", b"name: n\nmodel: {name: a/b}\nsources: {w: {category: web, path: raw}}\n")
    note(store, "clean", 2, **{"in": 1200, "out": 1100}, drops={"too short": 90, "a|b": 10}, seconds=75)
    note(store, "ingest", 1, out=1200)
    write_step_table(f"{store.uri}/runs/night", str(tmp_path / "made" / "page.md"))
    lines = (tmp_path / "made" / "page.md").read_text().splitlines()
    assert lines[0] == "## night"
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| ingest", "| clean"]
    assert lines[5] == "| clean | 1,200 | 1,100 | rejected 100 (too short 90, a\\|b 10) | 1:15 |"
