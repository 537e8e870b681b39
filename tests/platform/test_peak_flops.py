import pytest

from moescope.platform.peak_flops import peak_tflops


@pytest.mark.parametrize(
    ("name", "products", "peak"),
    [
        ("NVIDIA H200", "bfloat16", 989),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5),
        ("NVIDIA A10", "bfloat16", 125),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2),
        ("NVIDIA L40S", "float32", 91.6),
        # a longer name is another device
        ("NVIDIA A1000", "bfloat16", None),
        ("AMD Radeon", "bfloat16", None),
    ],
)
def test_the_peak_of_a_device_is_known_by_its_name(
    name: str, products: str, peak: float | None
) -> None:
    assert peak_tflops(name, products) == peak
