"""Devices: how fast the GPUs are that models are trained on."""

PEAK_FLOPS = {
    "B200": 2250e12,
    "H100": 989e12,
    "H200": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
}
"""Dense bfloat16 peak of one GPU (FLOP/s), from the vendors' data sheets, by a part of its name."""


def peak_flops(device_name: str) -> float | None:
    """Return the peak of a GPU by its name (FLOP/s), or None where it is not known."""
    words = device_name.replace("-", " ").split()
    return next((flops for name, flops in PEAK_FLOPS.items() if name in words), None)
