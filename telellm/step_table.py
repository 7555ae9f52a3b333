"""Step table: what each finished step of a run did, as Markdown for Kubeflow's UI."""

from pathlib import Path

from telellm.progress import drops_text, duration
from telellm.runs import open_run
from telellm.stage import read_notes

HEAD = "| step | in | out | left out | time |\n|---|---:|---:|---|---:|"


def write_step_table(run: str, page: str) -> None:
    """Write the table of a run, by its address, to a local file; steps in order of their ends."""
    store, name, _ = open_run(run)
    lines = [f"## {name}", "", HEAD]
    for label, note in read_notes(store, name).items():
        manifest = note["manifest"]
        left_out = drops_text(manifest["drops"]).replace("|", "\\|")
        counts = f"{manifest['in']:,} | {manifest['out']:,}"
        lines.append(f"| {label} | {counts} | {left_out} | {duration(manifest['seconds'])} |")
    Path(page).parent.mkdir(parents=True, exist_ok=True)
    Path(page).write_text("\n".join(lines) + "\n", encoding="utf-8")
