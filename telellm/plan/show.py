"""Show: a plan as text."""

from collections.abc import Iterator

from telellm.plan import Plan
from telellm.plan.work import Work
from telellm.progress import duration


def describe(plan: Plan) -> Iterator[str]:
    """Yield a plan's lines."""
    shape, texts = plan.shape, plan.texts
    yield f"model       {shape.name.rpartition('/')[2]}: {_count(shape.parameters)} parameters, {shape.layers} blocks"
    yield f"trains on   {plan.device}"
    sources = ", ".join(f"{name} {number:,}" for name, number in sorted(texts.by_category.items()))
    replay = f", replay {texts.replay:,}" if texts.replay else ""
    yield f"tokens      {plan.tokens:,} in {texts.sequences:,} sequences: {sources}{replay}"
    yield f"            {'' if texts.exact else 'about: '}{texts.basis}"
    yield ""
    cost = "GPU hours" if plan.device.on_gpu else "machine hours"
    yield f"{'step':<10} {'steps':>8} {'tokens':>16} {'GiB a process':>14} {'time':>11} {cost:>14}"
    for work in plan.work:
        yield _row(work)
    time = duration(3600 * sum(work.hours for work in plan.work if not work.requests))
    yield f"{'all':<10} {'':>8} {'':>16} {plan.gpu_memory_gib:>14.1f} {time:>11} {_hours(plan.gpu_hours):>14}"
    yield ""
    for work in plan.work:
        if work.memory_gib:
            yield f"{work.name:<10}  memory: " + ", ".join(
                f"{part} {size:.1f}" for part, size in work.memory_gib.items() if size >= 0.05
            )
        yield f"{work.name:<10}  rests on: {work.basis}"
    yield ""
    yield f"storage     {plan.storage_gib:,.1f} GiB: " + ", ".join(
        f"{part} {size:,.1f}" for part, size in plan.storage.items() if size >= 0.05
    )
    if plan.downloads:
        parts = ", ".join(f"{name} {size:,.1f}" for name, size in plan.downloads.items())
        yield f"downloads   {sum(plan.downloads.values()):,.1f} GiB, not in the store: {parts}"
    for note in plan.notes:
        yield f"not known   {note}"
    if arms := plan.recipe.study.all_arms():
        yield f"not counted the study's {len(arms)} arms: this is the recipe without their changes, for one seed"


def _row(work: Work) -> str:
    steps = f"{work.steps:,}" if work.steps else ""
    memory = f"{sum(work.memory_gib.values()):.1f}" if work.memory_gib else ""
    spent = (duration(3600 * work.hours), _hours(work.gpu_hours))
    if work.requests:
        spent = (f"{work.requests:,}", "requests")
    return f"{work.name:<10} {steps:>8} {work.tokens:>16,} {memory:>14} {spent[0]:>11} {spent[1]:>14}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.0f} M"
