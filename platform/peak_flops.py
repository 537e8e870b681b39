"""What a device could compute at most: dense, without sparsity, as its maker states it."""

from typing import NamedTuple


class Peak(NamedTuple):
    """TFLOP/s of matrix products with sums in fp32."""

    bf16: float
    fp32: float
    """Without TF32, which rounds."""


PEAKS: dict[str, Peak] = {
    "B200": Peak(2250, 75),
    "H200": Peak(989, 67),
    "H100 PCIe": Peak(756, 51),
    "H100 NVL": Peak(835, 60),
    "H100": Peak(989, 67),
    "A100": Peak(312, 19.5),
    "L40S": Peak(362, 91.6),
    "RTX 4090": Peak(165.2, 82.6),
    "RTX 3090": Peak(71, 35.6),
    "A10": Peak(125, 31.2),
    "L4": Peak(121, 30.3),
}
"""By a part of the driver's name of the device; the first that fits counts, so that the longer name
comes first. Source: NVIDIA's data sheets of each."""


def peak_tflops(device_name: str, products: str) -> float | None:
    """Returns the peak of a device for products in "bfloat16" or "float32"; None where it is not
    known."""
    words = device_name.replace("-", " ").split()
    for name, peak in PEAKS.items():
        parts = name.split()
        if any(words[i : i + len(parts)] == parts for i in range(len(words))):
            return peak.bf16 if products == "bfloat16" else peak.fp32
    return None
