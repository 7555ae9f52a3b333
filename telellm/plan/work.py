"""Work: one step of a plan, and the devices on which a recipe trains."""

from dataclasses import dataclass, field

from telellm.recipe import Recipe
from telellm.stage import workspace

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """What a recipe trains on."""

    kind: str
    """`CPU`, or a part of the GPU's name."""
    number: int
    """GPUs, or machines without any."""
    processes: int
    """Processes that share a model."""
    cores: float = 0
    """CPU cores of all machines together, where there is no GPU."""

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.kind != "CPU"

    def __str__(self) -> str:
        """`16 x H100`, or `2 processes on 4 cores`."""
        if self.on_gpu:
            return f"{self.number} x {self.kind}"
        return f"{self.processes} process{'es' * (self.processes > 1)} on {self.cores:g} cores, no GPU"


@dataclass(frozen=True)
class Work:
    """What one step takes that computes with a model."""

    name: str
    tokens: int
    """Tokens that go through a model."""
    hours: float = 0
    """From begin to end, on all of its devices."""
    gpu_hours: float = 0
    """Hours of all GPUs together; of machines, where there is no GPU."""
    steps: int = 0
    requests: int = 0
    """Requests to a server, whose GPU hours are its own."""
    memory_gib: dict[str, float] = field(default_factory=dict)
    """Memory of one process, by what it holds."""
    trained_parameters: int = 0
    basis: str = ""
    """What the figures rest on."""


def find_device(recipe: Recipe, gpu: str) -> Device:
    """Return what a recipe trains on; `gpu` names the kind of GPU, which no recipe says."""
    nodes, pretrain = recipe.cluster.training, recipe.training.pretrain
    if recipe.cluster.enabled and "pretrain" in recipe.cluster.stages:
        if nodes.gpus_per_node:
            number = nodes.nodes * nodes.gpus_per_node
            return Device(gpu or "H100", number, number)
        return Device("CPU", nodes.nodes, nodes.nodes * nodes.processes_per_node, nodes.nodes * nodes.cpus)
    found = _gpus_here()
    if gpu or found:
        number = pretrain.processes or max(1, len(found))
        return Device(gpu or found[0], number, number)
    return Device("CPU", 1, max(1, pretrain.processes), workspace())


def _gpus_here() -> list[str]:
    """Return the names of this machine's GPUs."""
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
