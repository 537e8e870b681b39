"""What one update does to weights, against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from moescope.monitors.weight_taps import MOST_ELEMENTS, SMALLEST_FP16, WeightTaps
from moescope.platform import catalogue


def parameter(values: list[float], dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def measured(
    blocks: list[list[nn.Parameter]],
    rest: list[nn.Parameter],
    changes: dict[nn.Parameter, list[Any]],
    keep: float = 1.0,
) -> dict[str, np.ndarray]:
    taps = WeightTaps(blocks, rest, "cpu")
    taps.before()
    with torch.no_grad():
        for p, change in changes.items():
            p.add_(torch.tensor(change, dtype=p.dtype))
    taps.after(torch.tensor(keep))
    taps.send()
    return dict(taps.read())


def test_norms_and_ratios_of_each_block_and_of_the_whole_update() -> None:
    first, second, head = parameter([3.0, 4.0]), parameter([12.0]), parameter([1.0])
    first.grad, second.grad = torch.tensor([6.0, 8.0]), torch.tensor([-2.0])
    changes = {first: [0.3, -0.4], second: [1.2], head: [0.0]}
    values = measured([[first], [second]], [head], changes)
    assert values[catalogue.GRAD_LAYER_NORM] == pytest.approx(np.array([10.0, 2.0]))
    # 0.5 over 5; 1.2 over 12
    assert values[catalogue.UPDATE_WEIGHT_RATIO] == pytest.approx(np.array([0.1, 0.1]))
    assert values[catalogue.UPDATE_NORM] == pytest.approx(1.3)  # sqrt(0.25 + 1.44)


def test_an_update_below_the_weights_precision_is_lost() -> None:
    # bf16 has 8 bits: the next number after 1 is 1 + 2^-7
    small = parameter([1.0, 1.0, 1.0, 1.0], torch.bfloat16)
    small.grad = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.bfloat16)
    values = measured([[small]], [], {small: [2.0**-7, 2.0**-10, 2.0**-10, 0.0]})
    # of three that have a gradient, one moved
    assert values[catalogue.UPDATE_LOST_SHARE] == pytest.approx(np.array([2 / 3]))


def test_what_bf16_would_lose_is_told_of_weights_that_are_fp32() -> None:
    weight = parameter([1.0, 1.0, 1.0, 1.0])
    weight.grad = torch.ones(4)
    values = measured([[weight]], [], {weight: [2.0**-7, 2.0**-10, 2.0**-12, 0.25]})
    assert values[catalogue.UPDATE_LOST_SHARE].tolist() == [0.0]
    assert values[catalogue.UPDATE_LOST_IN_BF16_SHARE].tolist() == [0.5]


def test_an_update_that_was_held_back_is_not_called_lost() -> None:
    weight = parameter([1.0, 2.0])
    weight.grad = torch.ones(2)
    values = measured([[weight]], [], {}, keep=0.0)
    assert values[catalogue.UPDATE_NORM] == 0.0
    assert values[catalogue.UPDATE_LOST_SHARE].tolist() == [0.0]


def test_gradients_that_fp16_would_round_to_nothing() -> None:
    weight = parameter([1.0, 1.0, 1.0, 1.0])
    weight.grad = torch.tensor([0.0, SMALLEST_FP16 / 2, 1e-3, -SMALLEST_FP16 / 4])
    values = measured([[weight]], [], {})
    assert values[catalogue.GRAD_UNDERFLOW_SHARE] == pytest.approx(np.array([2 / 3]))


def test_a_parameter_without_a_gradient_counts_as_one_that_stands_still() -> None:
    expert, other = parameter([1.0]), parameter([1.0])
    other.grad = torch.tensor([2.0])
    values = measured([[expert], [other]], [], {other: [0.5]})
    assert values[catalogue.GRAD_LAYER_NORM].tolist() == [0.0, 2.0]
    assert values[catalogue.UPDATE_WEIGHT_RATIO].tolist() == [0.0, 0.5]
    assert values[catalogue.UPDATE_LOST_SHARE].tolist() == [0.0, 0.0]


def test_of_a_large_matrix_a_part_stands_for_the_whole() -> None:
    chance = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(300, 1001, generator=chance))
    assert weight.numel() > 10 * MOST_ELEMENTS
    weight.grad = torch.randn(300, 1001, generator=chance)
    change = 0.01 * torch.randn(300, 1001, generator=chance)
    taps = WeightTaps([[weight]], [], "cpu")
    taps.before()
    ratio = (change.norm() / weight.detach().norm()).item()
    with torch.no_grad():
        weight.add_(change)
    taps.after(torch.ones(()))
    taps.send()
    values = taps.read()
    assert values[catalogue.UPDATE_NORM] == pytest.approx(change.norm().item(), rel=0.06)
    assert values[catalogue.UPDATE_WEIGHT_RATIO] == pytest.approx(np.array([ratio]), rel=0.06)
    # gradients' norms are of all elements
    want = weight.grad.norm().item()
    assert values[catalogue.GRAD_LAYER_NORM] == pytest.approx(np.array([want]), rel=1e-5)


def test_nothing_is_read_where_nothing_was_sent_or_it_was_dropped() -> None:
    weight = parameter([1.0])
    taps = WeightTaps([[weight]], [], "cpu")
    assert taps.read() == {}
    taps.before()
    taps.after(torch.ones(()))
    taps.send()
    taps.drop()
    assert taps.read() == {}


def test_experts_whose_weights_stand_still_are_counted_by_layer() -> None:
    layers = [nn.Parameter(torch.ones(4, 3, 5)), nn.Parameter(torch.ones(2, 3, 50))]
    taps = WeightTaps([layers], [], "cpu", experts=layers, num_experts=2)
    # the second router's experts stand still both: its layer did not run
    for keep, want in ((1.0, [1, 0, 0]), (0.0, [0, 0, 0])):
        taps.before()
        with torch.no_grad():
            layers[0][1] += 0.5  # of two routers of two experts each one expert moves
            layers[1] += 0.5
        taps.after(torch.tensor(keep))
        taps.send()
        assert taps.read()[catalogue.FROZEN_EXPERTS].tolist() == want


def test_columns_of_very_different_size_are_all_looked_at() -> None:
    weight = nn.Parameter(torch.ones(2048, 64))
    weight.grad = torch.ones_like(weight)
    with torch.no_grad():
        weight[:, ::2] = 100.0
    values = measured([[weight]], [], {weight: torch.full((2048, 64), 0.5).tolist()})
    norm = torch.full((2048, 64), 0.5).norm().item()
    want = norm / (weight.detach() - 0.5).norm().item()
    assert values[catalogue.UPDATE_WEIGHT_RATIO] == pytest.approx(np.array([want]), rel=0.06)
