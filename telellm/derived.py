"""Derived: what is computed from each file of an input alone, and kept, so that a night computes it for new files only.

Each lies in a folder of its own in the store, named after the file's digest and what is computed; the manifest of the
output that was made of them names these folders, so retention keeps them as long as the output.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from telellm.manifest import find_finished
from telellm.stage import Context, Output, digest_of, end_with_parent, workspace
from telellm.store import Store

FILE = "derived"
Make = Callable[[Path, Path], None]


def derive(context: Context, source: Output, stage: str, make: Make, what: str) -> Iterator[tuple[str, Path]]:
    """Yield each data file's name, and what `make(file, target)` wrote of it; made in processes where it is not kept.

    `what` is a digest of everything beside the file that it depends on. `make` is a function of a module (or a partial
    of one).
    """
    store = context.store
    names = source.names("data/")
    places = {
        name: f"stages/{stage}/shards/{digest_of(what, source.manifest['files'][name]['sha256'])}" for name in names
    }
    kept = dict(zip(names, store.each(lambda name: _kept(store, places[name]), names), strict=True))
    context.progress.start(len(names), "files")
    missing = [name for name in names if kept[name] is None]
    context.progress.advance(len(names) - len(missing))
    workers = min(workspace(), len(missing))
    if workers <= 1:
        for name in missing:
            kept[name] = _make(store, places[name], source.path(name), make)
            context.progress.advance()
    else:
        with ProcessPoolExecutor(workers, initializer=end_with_parent, initargs=(os.getpid(),)) as processes:
            arguments = [(store.uri, places[name], source.path(name), make) for name in missing]
            for name, made in zip(missing, processes.map(_make_in_worker, arguments), strict=True):
                kept[name] = made
                context.progress.advance()
    context.kept += places.values()
    for name in names:
        path = kept[name]
        assert path is not None, "all of them are made now"
        yield name, path


def _kept(store: Store, place: str) -> Path | None:
    manifest = find_finished(store, place)
    if manifest is None:
        return None
    return store.fetch(f"{place}/{FILE}", manifest["files"][FILE]["sha256"])


def _make(store: Store, place: str, path: Path, make: Make) -> Path:
    with tempfile.TemporaryDirectory(prefix="telellm-derived-") as folder:
        make(path, Path(folder) / FILE)
        manifest = store.commit(place, Path(folder), {"shard": path.name})
    return store.fetch(f"{place}/{FILE}", manifest["files"][FILE]["sha256"])


def _make_in_worker(arguments: tuple[str, str, Path, Make]) -> Path:
    uri, place, path, make = arguments
    return _make(Store.open(uri), place, path, make)
