"""Schedule: how the learning rate goes, and what a step is worth on a GPU."""

import math

from telellm.devices import peak_flops
from telellm.recipe import Optimization


def learning_rate(step: int, num_steps: int, settings: Optimization) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises in a line over `warmup_share` of the steps, then falls in a cosine to `final_learning_rate_share` of its
    greatest value at the last step. Source: SGDR (arXiv 1608.03983), one period, as in Tele-LLMs (arXiv 2409.05314).
    """
    num_warmup = math.ceil(settings.warmup_share * num_steps)
    if step < num_warmup:
        return settings.learning_rate * (step + 1) / num_warmup
    done = (step - num_warmup + 1) / max(1, num_steps - num_warmup)
    floor = settings.final_learning_rate_share
    return settings.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)


def utilization(tokens_per_second: float, num_parameters: int, device_name: str, num_devices: int) -> float | None:
    """Return the share of the GPUs' peak that training uses (MFU), or None where the peak is not known.

    Six operations a parameter and token; attention is left out. Source: PaLM (arXiv 2204.02311), appendix B.
    """
    peak = peak_flops(device_name)
    return 6 * num_parameters * tokens_per_second / (peak * num_devices) if peak else None
