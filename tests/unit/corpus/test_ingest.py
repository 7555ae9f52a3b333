import gzip
import io
import json
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from telellm.corpus.ingest import _within, divide, ingest, reader_for
from telellm.corpus.units import SHARD_BYTES, find_units
from telellm.execution import execute
from telellm.progress import Progress
from telellm.recipe import Recipe, RecipeError, Source, parse
from telellm.records import Document
from telellm.reuse import EndOfItem
from telellm.stage import Context, Shard
from telellm.store import Store
from tests.stages import documents, rejects, run

WORDS = "The terminal measures the cells around it and reports the strongest of them to the network. " * 8
PAPER = "\\documentclass{article}\n\\title{On cells}\n"
PAPER += f"\\begin{{document}}\n{WORDS}\n\\input{{part}}\n\\end{{document}}\n"
PART = "\\section{Results}\nThe gain is $G = 3$ dB.\n"


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def archive(files: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            tar.addfile(member, io.BytesIO(content.encode()))
    return stream.getvalue()


def recipe_for(path: str | Path, category: str = "arxiv", shard_files: int = 3) -> Recipe:
    text = f"name: i\nmodel: {{name: o/m}}\nsources: {{one: {{category: {category}, path: '{path}'}}}}\n"
    return parse(text, changes=[f"corpus.ingest.shard_files={shard_files}"])


def shards_of(recipe: Recipe, folder: Path) -> list[Shard]:
    store, progress = Store.open(str(folder / "store")), Progress("ingest", lambda event: None)
    context = Context(recipe, store, "test", folder, progress, "key")
    return sorted(divide(context, recipe.corpus.ingest), key=lambda shard: shard.name)


def units_of(path: str | Path) -> dict[str, int]:
    source = Source(category="arxiv", path=str(path))  # type: ignore[call-arg]
    with tempfile.TemporaryDirectory() as store:
        return {unit.name: len(unit.keys) for unit in find_units(Store.open(store), "one", source)}


def test_every_sample_comes_out_under_its_name(samples: Any) -> None:
    others = {name for name, entry in samples.truth.items() if entry.get("language")}
    assert {item.id for item in documents(samples.ingested)} == set(samples.truth) - others
    for item in documents(samples.ingested):
        assert item.id.startswith(item.category)
        assert {"source_url", "licence", "retrieved_at", "sha256"} <= set(item.fields)


def test_a_folder_with_latex_is_one_project(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a/main.tex": PAPER,
            "a/sections/part.tex": PART,
            "a/figures/f.pdf": b"%PDF",
            "b/deep/x.tex": PAPER,
            "b/deep/part.tex": PART,
            "c.tar.gz": archive({"main.tex": PAPER}),
        },
    )
    assert units_of(tmp_path) == {"a": 3, "b/deep": 2, "c.tar.gz": 1}


def test_a_source_may_be_one_project_itself(tmp_path: Path) -> None:
    write(
        tmp_path, {"main.tex": PAPER, "main.bak.tex": PAPER, "part.tex": PART, "sections/a.tex": PART, "refs.bib": ""}
    )
    assert units_of(tmp_path) == {".": 5}
    output = run(ingest, recipe_for(tmp_path), Store.open(str(tmp_path.with_name("store"))))
    (paper,) = documents(output)
    assert paper.id == f"arxiv_{tmp_path.name}"
    assert "The gain is $G = 3$ dB." in paper.content


def test_loose_papers_in_one_folder_are_each_one(tmp_path: Path) -> None:
    write(tmp_path, {"first.tex": PAPER, "second.tex": PAPER, "third/main.tex": PAPER})
    assert units_of(tmp_path) == {"first.tex": 1, "second.tex": 1, "third": 1}


def test_months_hold_papers_as_archives_and_by_number(tmp_path: Path) -> None:
    single = gzip.compress(PAPER.encode())
    write(
        tmp_path,
        {
            "2401/2401.00001.tar.gz": archive({"main.tex": PAPER, "part.tex": PART}),
            "2401/2401.00002.gz": single,
            "2401/2401.00003.tex": PAPER,
            "2401/2401.00004/paper.tex": PAPER,
            "2401/2401.00005": archive({"main.tex": PAPER}),
            "2402/2402.00001.gz": single,
        },
    )
    assert set(units_of(tmp_path)) == {
        *(f"2401/2401.0000{number}" for number in (4, 5)),
        *("2401/2401.00001.tar.gz", "2401/2401.00002.gz", "2401/2401.00003.tex", "2402/2402.00001.gz"),
    }
    output = run(ingest, recipe_for(tmp_path), Store.open(str(tmp_path.with_name("store"))))
    assert rejects(output) == []
    assert {item.id for item in documents(output)} == {
        *(f"arxiv_2401.0000{number}" for number in range(1, 6)),
        "arxiv_2402.00001",
    }


@pytest.mark.parametrize(
    ("name", "category", "module"),
    [
        ("a.TAR.GZ", "arxiv", "arxiv"),
        ("2401.00001v2", "arxiv", "arxiv"),
        ("a.zip", "arxiv", "arxiv"),
        ("a.zip", "standard", "standards"),
        ("A.DOCX", "standard", "standards"),
        ("rfc1.txt", "standard", "text"),
        ("notes.md", "web", "text"),
        ("dump.xml.bz2", "wiki", "wikipedia"),
        ("CC.warc.gz", "web", "web"),
        ("page.HTML", "standard", "web"),
        ("a.pdf", "standard", None),
        ("a.xml", "web", None),
        ("Makefile", "standard", None),
    ],
)
def test_a_reader_is_chosen_by_name_and_category(name: str, category: str, module: str | None) -> None:
    reader = reader_for(Path(name), category, ["en"])
    found = getattr(reader, "func", reader)
    assert (found and found.__module__) == (module and f"telellm.corpus.sources.{module}")


def test_a_bad_file_is_a_reject_and_the_run_goes_on(tmp_path: Path) -> None:
    raw = write(
        tmp_path / "raw",
        {
            "good.md": f"# Cells\n\n{WORDS}",
            "broken.docx": b"PK\x03\x04 no more",
            "cut.zip": b"PK\x05",
            "picture.png": b"\x89PNG",
            "binary.txt": bytes(range(256)) * 10,
            "empty.md": "",
            ".hidden.md": WORDS,
            "~$lock.docx": b"x",
            "__MACOSX/a.md": WORDS,
            "a/.git/config.md": WORDS,
        },
    )
    output = run(ingest, recipe_for(raw, "standard"), Store.open(str(tmp_path / "store")))
    assert [item.id for item in documents(output)] == ["standard_good"]
    found = {json.loads(row["item"])["file"]: row["reason"] for row in rejects(output)}
    assert set(found) == {"broken.docx", "cut.zip", "picture.png", "binary.txt", "empty.md"}
    assert found["picture.png"] == "unknown format"


def test_a_file_may_be_called_anything(tmp_path: Path) -> None:
    names = ["\udcfcber.md", "\udcfdber.md", "new\nline.md", "a b.md"]  # the first as Latin-1 has them
    raw = write(tmp_path / "raw", {name: f"# Cells\n\n{WORDS}{number}" for number, name in enumerate(names)})
    output = run(ingest, recipe_for(raw, "standard"), Store.open(str(tmp_path / "store")))
    assert rejects(output) == []
    found = {item.fields["file_name"] for item in documents(output)}
    assert found == {"\\xfcber.md", "\\xfdber.md", "new\nline.md", "a b.md"}
    assert len({item.id for item in documents(output)}) == 4


def test_a_file_that_is_gone_when_its_turn_comes_is_a_reject(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", {"good.md": WORDS, "gone.md": WORDS})
    recipe = recipe_for(raw, "standard")
    units = find_units(Store.open(str(tmp_path)), "one", recipe.sources["one"])
    (raw / "gone.md").unlink()
    silent = Progress("ingest", lambda event: None)
    context = Context(recipe, Store.open(str(tmp_path)), "r", tmp_path, silent, "k", content=units)
    items = [
        item for item in ingest.body(context, recipe.corpus.ingest, units) or () if not isinstance(item, EndOfItem)
    ]
    assert [getattr(item, "reason", "read") for item in items] == ["unreadable", "read"]


def test_the_output_is_the_same_however_many_workers_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write(tmp_path / "raw", {f"{number}.md": f"# Cell {number}\n\n{WORDS}" for number in range(9)})
    contents = []
    for cores in (1, 3):
        monkeypatch.setattr("telellm.shards.workspace", lambda cores=cores: cores)
        store = Store.open(str(tmp_path / f"store{cores}"))
        contents.append(run(ingest, recipe_for(raw, "standard"), store).content)
    assert contents[0] == contents[1]


def test_a_file_that_changes_is_read_again_with_its_shard_alone(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", {f"{number}.md": f"# Cell {number}\n\n{WORDS}" for number in range(9)})
    store = Store.open(str(tmp_path / "store"))
    before = run(ingest, recipe_for(raw, "standard"), store).manifest["files"]
    write(raw, {"3.md": f"# Another\n\n{WORDS}"})
    after = run(ingest, recipe_for(raw, "standard"), store).manifest["files"]
    assert set(before) == set(after)
    changed = sorted(name for name in before if before[name] != after[name])
    assert [name.partition("/")[0] for name in changed] == ["data", "raw", "trail"]
    assert changed[0].removeprefix("data/") == f"{Path(changed[1]).stem}-00000.parquet"  # files of one shard


def test_files_that_come_with_names_in_a_row_leave_most_shards_as_they_were(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", {f"2610/{number:05}.md": f"# Cell {number}" for number in range(200)})
    recipe = recipe_for(raw, "standard", shard_files=8)
    before = {shard.name: shard.digest for shard in shards_of(recipe, tmp_path)}
    assert 12 < len(before) < 50 and list(before) == sorted(before)
    write(raw, {f"2611/{number:05}.md": f"# Cell {number}" for number in range(20)})
    after = {shard.name: shard.digest for shard in shards_of(recipe, tmp_path)}
    assert len(before.items() - after.items()) == 1  # the last one became longer
    assert 1 <= len(after.keys() - before.keys()) <= 8


def test_a_large_file_is_a_shard(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", {f"{number}.md": "text" for number in range(9)})
    with (raw / "5.md").open("wb") as stream:
        stream.truncate(SHARD_BYTES)
    first, second = shards_of(recipe_for(raw, "standard", shard_files=10**9), tmp_path)
    assert [unit.name for unit in second.content] == ["5.md", "6.md", "7.md", "8.md"] and len(first.content) == 5


def test_every_raw_file_is_noted_with_its_digest(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", {f"{number}.md": f"# Cell {number}\n\n{WORDS}" for number in range(9)})
    output = run(ingest, recipe_for(raw, "standard"), Store.open(str(tmp_path / "store")))
    lines = [line for name in output.names("raw/") for line in output.path(name).read_text().splitlines()]
    found = {row["file"]: row["digest"] for row in map(json.loads, lines)}
    assert found == {file.name: sha256(file.read_bytes()).hexdigest() for file in raw.iterdir()}


def test_a_source_in_a_bucket_reads_as_one_in_a_folder(tmp_path: Path, bucket_uri: str) -> None:
    raw = write(
        tmp_path / "raw",
        {"p/main.tex": PAPER, "p/part.tex": PART, "2401/2401.00001.gz": gzip.compress(PAPER.encode())},
    )
    bucket = Store.open(f"{bucket_uri}/raw")
    for path in sorted(raw.rglob("*")):
        if path.is_file():
            bucket.upload(path.relative_to(raw).as_posix(), path)
    texts = []
    for place in (raw, f"{bucket_uri}/raw"):
        output = run(ingest, recipe_for(place), Store.open(str(tmp_path / "store")))
        assert rejects(output) == []
        texts.append([(item.id, item.content, item.fields["file_name"]) for item in documents(output)])
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2
    assert documents(output)[0].fields["source_url"].startswith(f"{bucket_uri}/raw/")


def test_a_source_may_be_one_file(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", {"one.md": f"# One\n\n{WORDS}", "two.md": WORDS})
    for place in (raw / "one.md", (raw / "one.md").as_uri()):
        output = run(ingest, recipe_for(place, "standard"), Store.open(str(tmp_path / "store")))
        assert [item.id for item in documents(output)] == ["standard_one"]


@pytest.mark.parametrize(("path", "message"), [("nowhere", "does not exist"), ("empty", "holds no files")])
def test_a_source_without_files_is_named(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    recipe = recipe_for(tmp_path / path)
    with pytest.raises(RecipeError, match=rf"sources\.one\.path: .*{message}"):
        execute(ingest, recipe, Store.open(str(tmp_path / "store")), "r", {})


def test_a_reader_that_is_stuck_is_stopped() -> None:
    def stuck() -> Iterator[Document]:
        yield Document.create("web", "a", "first")
        time.sleep(30)

    items = _within(0.2, stuck())
    assert next(items).content == "first"  # type: ignore[union-attr]
    with pytest.raises(TimeoutError):
        next(items)


def test_readers_work_outside_the_main_thread_too() -> None:
    found: list[Any] = []
    items = iter([Document.create("web", "a", "text")])
    thread = threading.Thread(target=lambda: found.extend(_within(1, items)))
    thread.start()
    thread.join()
    assert [item.content for item in found] == ["text"]


def test_the_store_of_raw_files_is_left_as_it_was(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", {"p/main.tex": PAPER, "p/part.tex": PART})
    shutil.copytree(raw, tmp_path / "copy")
    run(ingest, recipe_for(raw), Store.open(str(tmp_path / "store")))
    assert {path.relative_to(raw): path.stat().st_size for path in raw.rglob("*")} == {
        path.relative_to(tmp_path / "copy"): path.stat().st_size for path in (tmp_path / "copy").rglob("*")
    }
