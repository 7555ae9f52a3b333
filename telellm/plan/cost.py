"""Cost: floating point operations, and how fast a device does them."""

from dataclasses import dataclass, replace

from telellm.devices import PEAK_FLOPS, peak_flops
from telellm.plan.earlier import Earlier, MeasuredTraining
from telellm.plan.shape import Shape
from telellm.plan.work import Device
from telellm.recipe import Optimization, RecipeError

CORE_FLOPS = 6e10
"""What one CPU core reaches in training (FLOP/s): 150 tokens a second of 135 M parameters on two cores, measured."""
DECODING_SHARE = 0.1
"""Speed of writing against reading: token by token, weights are read from memory for each (batches of 8 to 32)."""


@dataclass(frozen=True)
class Speed:
    """What the devices of a recipe reach."""

    flops: float
    """In training, all of them together (FLOP/s)."""
    one: float
    """One GPU or machine: models are asked on one."""
    basis: str


def find_speed(device: Device, earlier: Earlier | None, shape: Shape, utilization: float) -> Speed:
    """Return the speed of an earlier run on the same kind of device, or a share of the peak.

    Raises `RecipeError` for a GPU whose peak is not known.
    """
    measured = [
        flops for training in (earlier.trainings if earlier else ()) if (flops := _measured(training, device, shape))
    ]
    units = device.number if device.on_gpu else 1
    if measured:
        flops = measured[0] * units
        return Speed(flops, flops / max(1, device.number), "speed measured by an earlier run in the store")
    if not device.on_gpu:
        flops = CORE_FLOPS * device.cores
        return Speed(flops, flops / max(1, device.number), "speed of a CPU core as measured elsewhere, rough")
    peak = peak_flops(device.kind)
    if peak is None:
        raise RecipeError(f'plan: "{device.kind}" is not a known GPU\n  known GPUs: {", ".join(PEAK_FLOPS)}')
    said = f"{utilization:.0%} of the {peak / 1e12:,.0f} TFLOP/s of a {device.kind} (assumed)"
    return Speed(peak * utilization * device.number, peak * utilization, said)


def training_flops(shape: Shape, num_trained: int, sequence_length: int, settings: Optimization) -> float:
    """Return the operations of one token of training.

    Six a parameter (two forward, two for the gradient of activations, two for that of weights, which only trained ones
    need), and attention over half of the sequence; two a parameter more where activations are computed again. Source:
    PaLM (arXiv 2204.02311), appendix B, whose attention is not causal.
    """
    attention = 6 * shape.layers * shape.attention * sequence_length
    again = settings.activation_checkpointing
    weights = 2 * num_trained if settings.method == "lora" else 2 * shape.parameters
    return 4 * shape.parameters + weights + attention + again * (2 * shape.parameters + attention / 3)


def asking_flops(shape: Shape, num_read: float, num_written: float) -> float:
    """Return the operations of tokens that a model reads and writes, writing counted by the time that it takes."""
    return 2 * shape.parameters * (num_read + num_written / DECODING_SHARE)


def _measured(training: MeasuredTraining, device: Device, shape: Shape) -> float:
    """Return what a finished training reached (FLOP/s) on one GPU, or on all machines; 0 for another device."""
    facts = training.summary
    on_gpu = facts["device"] != "CPU"
    if on_gpu != device.on_gpu or (on_gpu and device.kind not in facts["device"]):
        return 0
    measured = replace(shape, parameters=facts["parameters"])
    operations = training_flops(measured, facts["trained_parameters"], training.sequence_length, training.settings)
    flops = operations * float(facts["tokens_per_second"])
    return flops / facts["processes"] if on_gpu else flops
