"""Plan: what a run will take before anything runs: tokens, steps, memory, hours and storage.

Everything is an estimate, and says what it rests on: an earlier run of the same sources in the store, or bytes, counts
and formulas. Nothing heavy is read: of a model its configuration, of sources the names and sizes of their files.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from telellm.plan.cost import Speed, find_speed, training_flops
from telellm.plan.earlier import find_earlier
from telellm.plan.memory import training_memory
from telellm.plan.questions import asking, evaluating, screening
from telellm.plan.references import downloads, reference_shapes
from telellm.plan.shape import Shape, read_shape
from telellm.plan.storage import keep
from telellm.plan.texts import Texts, find_texts
from telellm.plan.training import Training, plan_instruct, plan_pretrain
from telellm.plan.work import GIB, Device, Work, find_device
from telellm.recipe import Optimization, Recipe
from telellm.store import Store

__all__ = ["Plan", "Work", "estimate"]


@dataclass(frozen=True)
class Plan:
    """What a run is estimated to take."""

    recipe: Recipe
    pipeline: str
    device: Device
    shape: Shape
    texts: Texts
    work: tuple[Work, ...]
    """Each step that computes with a model, in the order of the pipeline."""
    storage: dict[str, float]
    """What stays in the store, by kind (GiB)."""
    downloads: dict[str, float] = field(default_factory=dict)
    """What is fetched into the cache of the machine that needs it, by model (GiB)."""
    notes: tuple[str, ...] = field(default=())
    """What the estimate does not know."""

    @property
    def tokens(self) -> int:
        """Tokens of the packed sequences, replay among them: one epoch of pretraining."""
        return self.texts.num_tokens

    @property
    def steps(self) -> int:
        """Optimiser steps of pretraining."""
        return self.step("pretrain").steps

    @property
    def gpu_memory_gib(self) -> float:
        """Memory of one training process at its peak (GiB): of a GPU, or of this machine where it trains on CPUs."""
        return max(sum(work.memory_gib.values()) for work in self.work)

    @property
    def gpu_hours(self) -> float:
        """Hours of all GPUs together; where models are trained on CPUs, hours of machines."""
        return sum(work.gpu_hours for work in self.work)

    @property
    def storage_gib(self) -> float:
        """What stays in the store (GiB)."""
        return sum(self.storage.values())

    def step(self, name: str) -> Work:
        """Return one step's part of the plan."""
        return next(work for work in self.work if work.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values, the resolved recipe among them."""
        totals = ("tokens", "steps", "gpu_memory_gib", "gpu_hours", "storage_gib")
        parts = {name: asdict(getattr(self, name)) for name in ("device", "shape", "texts")}
        return {
            **{name: getattr(self, name) for name in totals},
            **parts,
            "pipeline": self.pipeline,
            "work": [asdict(work) for work in self.work],
            "storage": self.storage,
            "downloads": self.downloads,
            "notes": list(self.notes),
            "recipe": self.recipe.model_dump(mode="json"),
        }


def estimate(
    recipe: Recipe,
    store: Store | None = None,
    *,
    pipeline: str = "adapt",
    tokens: int = 0,
    gpu: str = "",
    utilization: float = 0.4,
) -> Plan:
    """Return what a run of a recipe will take; needs no GPU, no weights and no network where the model is here.

    `store` is looked through for an earlier run of the same sources: its counts and its speed take the place of rough
    ones. `tokens` is the size of the corpus where it is known otherwise. `gpu` is the kind of GPU ("H100"), where
    `cluster.training` asks for some; `utilization` the share of its peak that training reaches, where no run was
    measured. Raises `RecipeError` where the base model's configuration or a source of this machine is missing, or where
    nothing tells how large the corpus is.
    """
    notes: list[str] = []
    shape = read_shape(recipe.model.name, recipe.model.revision)
    earlier = find_earlier(recipe, store) if store else None
    texts = find_texts(recipe, earlier, tokens, notes)
    device = find_device(recipe, gpu)
    speed = find_speed(device, earlier, shape, utilization)
    trained = [plan_pretrain(recipe, texts)]
    if recipe.training.instruct.data:
        trained.append(plan_instruct(recipe, earlier, notes))
    beside = reference_shapes(recipe, shape, notes)
    training = [_train(each, recipe, shape, device, speed) for each in trained]
    work = (
        screening(recipe, texts, shape, speed, notes),
        asking(recipe, texts, shape, speed, notes),
        *training,
        evaluating(recipe, texts, shape, beside, speed, pipeline, notes),
    )
    storage = keep(recipe, texts, shape, training, pipeline)
    fetched = downloads(recipe, shape, beside)
    return Plan(recipe, pipeline, device, shape, texts, tuple(work), storage, fetched, tuple(notes))


def _train(training: Training, recipe: Recipe, shape: Shape, device: Device, speed: Speed) -> Work:
    settings: Optimization = recipe.section(f"training.{training.name}")
    if not training.steps:
        return Work(training.name, 0, basis=training.basis)
    num_trained = shape.trained(settings.method, recipe.training.lora)
    checkpointed = training.steps > settings.checkpoint_steps
    parts = training_memory(shape, num_trained, settings, training.sequence_length, device, checkpointed)
    flops = training_flops(shape, num_trained, training.sequence_length, settings)
    hours = flops * training.tokens / speed.flops / 3600
    return Work(
        name=training.name,
        tokens=training.tokens,
        steps=training.steps,
        hours=hours,
        gpu_hours=hours * device.number,
        memory_gib={part: size / GIB for part, size in parts.items()},
        basis=f"{training.basis}; {speed.basis}",
        trained_parameters=num_trained,
    )
