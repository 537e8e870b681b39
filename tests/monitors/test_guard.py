import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moescope.monitors.guard import WARMUP_STEPS, Guard


def hold(guard: Guard, norm: float, loss: float = 1.0) -> float:
    return float(guard.hold(torch.tensor(loss), torch.tensor(norm)))


def warm(norm: float = 1.0, most_in_a_row: int = 3) -> Guard:
    guard = Guard("cpu", extreme_factor=50.0, most_in_a_row=most_in_a_row)
    for _ in range(WARMUP_STEPS):
        assert hold(guard, norm) == 0.0
    return guard


def test_a_non_finite_update_is_never_applied() -> None:
    guard = warm()
    for norm, loss in ((math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)):
        assert [hold(guard, norm, loss) for _ in range(10)] == [1.0] * 10


def test_one_nan_blinds_nothing() -> None:
    guard, control = warm(), warm()
    hold(guard, math.nan)
    assert hold(guard, 1.0) == 0.0
    assert hold(guard, 1000.0) == 1.0
    hold(control, 1.0)
    for name, value in control.state_dict().items():
        assert torch.isfinite(value).all(), name


def test_an_extreme_norm_is_held_and_a_mere_spike_is_not() -> None:
    guard = warm()
    assert hold(guard, 40.0) == 0.0
    guard = warm()
    assert hold(guard, 51.0) == 1.0


def test_the_guard_lets_go_after_the_most_in_a_row() -> None:
    guard = warm()
    assert [hold(guard, 1000.0) for _ in range(6)] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_an_ordinary_step_starts_the_count_anew() -> None:
    guard = warm()
    found = [hold(guard, norm) for norm in (1000.0, 1000.0, 1.0, 1000.0, 1000.0, 1000.0, 1000.0)]
    assert found == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]


def test_extremes_are_let_through_while_the_level_is_being_learnt() -> None:
    guard = Guard("cpu", extreme_factor=50.0, most_in_a_row=3)
    assert [hold(guard, norm) for norm in (1.0, 1000.0, 1.0)] == [0.0, 0.0, 0.0]


def test_a_gradient_of_zero_does_not_make_the_next_one_extreme() -> None:
    guard = warm()
    assert hold(guard, 0.0) == 0.0
    assert hold(guard, 1.0) == 0.0


def test_the_level_follows_a_falling_norm() -> None:
    guard = warm(norm=100.0)
    for step in range(100):
        assert hold(guard, 100.0 * 0.95**step) == 0.0
    # 100 * 0.95^99 = 0.62 and a lag of some ten steps: 200 is far above fifty times that
    assert hold(guard, 200.0) == 1.0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([1.0, 2.0, 1000.0, math.nan]), min_size=1, max_size=40),
    st.integers(0, 40),
)
def test_a_guard_split_in_two_answers_the_same(norms: list[float], at: int) -> None:
    whole, first = warm(), warm()
    expected = [hold(whole, norm) for norm in norms]
    found = [hold(first, norm) for norm in norms[:at]]
    second = Guard("cpu", extreme_factor=50.0, most_in_a_row=3)
    second.load_state_dict(first.state_dict())
    assert found + [hold(second, norm) for norm in norms[at:]] == expected


@given(st.lists(st.sampled_from([1.0, 1000.0, 1e9, math.nan]), max_size=60))
@settings(max_examples=50, deadline=None)
def test_finite_extremes_never_stop_more_than_the_most_in_a_row(norms: list[float]) -> None:
    guard, in_a_row = warm(), 0
    for norm in norms:
        held = hold(guard, norm)
        if math.isnan(norm):
            assert held == 1.0
        else:
            in_a_row = in_a_row + 1 if held else 0
            assert in_a_row <= 3


def test_a_held_step_changes_neither_weights_nor_moments_nor_counters() -> None:
    weight = torch.nn.Parameter(torch.ones(5))
    optimizer = torch.optim.AdamW([weight], fused=True)
    guard = Guard("cpu")

    def update(gradient: float) -> None:
        weight.grad = torch.full((5,), gradient)
        optimizer.found_inf = guard.hold(torch.tensor(1.0), weight.grad.norm())  # type: ignore[attr-defined]
        optimizer.step()

    update(1.0)
    before = [weight.detach().clone(), *(v.clone() for v in optimizer.state[weight].values())]
    update(math.nan)
    after = [weight.detach(), *optimizer.state[weight].values()]
    assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True))
    update(1.0)
    assert not torch.equal(before[0], weight.detach())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_guard_waits_for_no_device() -> None:
    guard = Guard("cuda")
    norms = [torch.tensor(value, device="cuda") for value in [1.0] * WARMUP_STEPS + [1e3, math.nan]]
    loss = torch.tensor(1.0, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        held = [guard.hold(loss, norm) for norm in norms]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [float(h) for h in held] == [0.0] * WARMUP_STEPS + [1.0, 1.0]
