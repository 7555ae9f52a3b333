"""The doctor's lines about this machine and about a recipe."""

from telellm.cli import main
from telellm.machine import check_machine, check_recipe
from telellm.plan import Plan


def test_what_a_machine_has_is_told_and_what_a_run_lacks_is_a_warning(recipe_with, tmp_path, monkeypatch):
    store = str(tmp_path / "not" / "there")
    machine, disk = check_machine(None, store)
    assert (machine.state, disk.state) == ("ok", "ok")
    assert "cores, " in machine.said and f"GiB are free for {store}" in disk.said
    assert [found.name for found in check_machine(None, "s3://bucket/x")] == ["machine"]

    needs = Plan.__new__(Plan)
    monkeypatch.setattr(Plan, "gpu_memory_gib", property(lambda plan: 1e6))
    monkeypatch.setattr(Plan, "storage_gib", property(lambda plan: 1e9))
    object.__setattr__(needs, "device", type("Device", (), {"on_gpu": False}))
    monkeypatch.setattr("telellm.machine.estimate", lambda recipe: needs)
    machine, disk = check_machine(recipe_with(), store)
    assert (machine.state, disk.state) == ("warning", "warning")
    assert "training needs about 1000000.0 GiB a process" in machine.said and "make room" in disk.said


def test_a_recipe_whose_files_are_missing_fails_before_a_run_does(recipe_with, tmp_path, capsys):
    (missing,) = check_recipe(recipe_with("sources.one.path=/nowhere"))
    assert missing.state == "failed" and "sources.one.path: /nowhere does not exist" in missing.said
    (tmp_path / "r.yaml").write_text(recipe_with("sources.one.path=/nowhere").to_yaml())
    assert main(["doctor", str(tmp_path / "r.yaml"), "--store", str(tmp_path / "store")]) == 1
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if line[0] != " "][:3] == ["machine", "disk", "recipe"]
