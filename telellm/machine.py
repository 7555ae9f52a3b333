"""Machine: what this machine has for a run on it, and whether the recipe is one that can run."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from telellm.checks import check, find_away
from telellm.doctor import Check
from telellm.plan import estimate
from telellm.plan.work import GIB
from telellm.recipe import Recipe, RecipeError
from telellm.store import StoreUnavailable


def check_recipe(recipe: Recipe) -> Iterator[Check]:
    """Yield whether the files and models that a recipe names are there, as a run looks for them before it begins."""
    try:
        check(recipe)
        away = list(find_away(recipe))
        yield from (Check("recipe", "warning", said) for said in away)
        if not away:
            yield Check("recipe", "ok", "its files and models of this machine are there")
    except RecipeError as error:
        yield Check("recipe", "failed", str(error))


def check_machine(recipe: Recipe | None, store: str) -> Iterator[Check]:
    """Yield what this machine has, and whether that is enough for a run of the recipe on it, by `plan`'s estimate."""
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / GIB
    with suppress(OSError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        memory = int(lines["MemAvailable"].split()[0]) * 1024 / GIB
    has = f"{os.cpu_count()} cores, {memory:.1f} GiB of memory free, {gpus or 'no'} GPU{'s' * (gpus > 1)}"
    needs = None
    if recipe is not None and not recipe.cluster.enabled:
        with suppress(RecipeError, StoreUnavailable, ImportError):  # a size that nobody knows, an image without torch
            needs = estimate(recipe)
    if needs is not None and not needs.device.on_gpu and needs.gpu_memory_gib > memory:
        said = f"{has}; training needs about {needs.gpu_memory_gib:.1f} GiB a process: see telellm plan, lower "
        yield Check("machine", "warning", f"{said}training.pretrain.micro_batch_sequences, or choose a smaller model")
    else:
        yield Check("machine", "ok", has)
    if "://" in store.removeprefix("file://"):
        return
    folder = Path(store.removeprefix("file://")).absolute()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free / GIB
    if needs is not None and needs.storage_gib > free:
        said = f"{free:.1f} GiB are free for {folder}, and a run keeps about {needs.storage_gib:.1f} GiB"
        yield Check("disk", "warning", f"{said}: make room, or name another --store")
    else:
        yield Check("disk", "ok", f"{free:.1f} GiB are free for {folder}")
