from collections.abc import Callable

import numpy as np
import pytest

from moescope.monitors.loss_signals import CLIP_SIGMA, LossNormaliser, Residuals
from moescope.platform import catalogue

ONES = np.ones(2)


def learn(normaliser: LossNormaliser, values: dict[str, np.ndarray]) -> Residuals:
    loss_MB, sigma_MB = values[catalogue.LOSS_PER_SAMPLE], values[catalogue.LOSS_SIGMA]
    residuals = normaliser.residuals(loss_MB, sigma_MB)
    assert residuals is not None
    normaliser.learn(residuals, ONES)
    return residuals


def test_the_first_residual_is_measured_in_prior_scales() -> None:
    # ln 2 = 0.693 above the median of (1, 1, 2), with a prior scale of 0.3: 2.31 sigma
    loss_MB = np.array([[1.0, 1.0, 2.0]])
    residuals = LossNormaliser(1).residuals(loss_MB, np.array([[0.1, 0.5, 0.9]]))
    assert residuals is not None
    assert residuals.per_sample_MB == pytest.approx(np.array([[0.0, 0.0, 2.3105]]), abs=1e-4)
    assert residuals.pooled == pytest.approx(2.3105 / 2, abs=1e-4)  # over the root of at least 4


def test_residuals_do_not_depend_on_sigma_once_the_curve_is_learnt(
    loss_stream: Callable,
) -> None:
    stream, normaliser = loss_stream(0), LossNormaliser()
    for step in range(400):
        learn(normaliser, stream.step(step))
    by_half: dict[bool, list[float]] = {True: [], False: []}
    for step in range(400, 700):
        values = stream.step(step)
        residuals = learn(normaliser, values)
        for z, sigma in zip(
            residuals.per_sample_MB[0], values[catalogue.LOSS_SIGMA][0], strict=True
        ):
            by_half[bool(sigma > 0.5)].append(float(z))
    for z_of_half in by_half.values():
        assert np.mean(z_of_half) == pytest.approx(0.0, abs=0.15)
        assert np.std(z_of_half) == pytest.approx(1.0, abs=0.25)


def test_a_falling_loss_leaves_no_lag_in_the_curve(loss_stream: Callable) -> None:
    # every knot is met about every third step; without the common level the curve would lag
    stream, normaliser = loss_stream(1, fall_steps=30.0), LossNormaliser()
    worst = [float(np.mean(learn(normaliser, stream.step(step)).pooled)) for step in range(150)]
    assert max(worst[60:]) < 3.5


def test_masked_and_non_finite_losses_are_passed_over() -> None:
    normaliser = LossNormaliser()
    loss_MB = np.array([[1.0, np.nan, 1.0], [0.0, 0.0, 0.0]])
    residuals = normaliser.residuals(loss_MB, np.full((2, 3), 0.5))
    assert residuals is not None
    assert np.isnan(residuals.per_sample_MB).tolist() == [[False, True, False], [True] * 3]
    assert np.isnan(residuals.of_modality_M).tolist() == [False, True]
    assert normaliser.residuals(np.zeros((2, 3)), np.full((2, 3), 0.5)) is None


def test_one_odd_sample_is_clipped() -> None:
    normaliser = LossNormaliser(1)
    loss_MB = np.array([[1.0] * 7 + [1e9]])
    residuals = normaliser.residuals(loss_MB, np.linspace(0.1, 0.9, 8)[None])
    assert residuals is not None
    assert residuals.per_sample_MB.max() == CLIP_SIGMA
    assert residuals.pooled == pytest.approx(CLIP_SIGMA / np.sqrt(8))


def test_asking_changes_nothing(loss_stream: Callable) -> None:
    stream, normaliser = loss_stream(2), LossNormaliser()
    for step in range(50):
        learn(normaliser, stream.step(step))
    values = stream.step(50)
    answers = [
        normaliser.residuals(values[catalogue.LOSS_PER_SAMPLE], values[catalogue.LOSS_SIGMA])
        for _ in range(3)
    ]
    assert all(answer is not None for answer in answers)
    assert len({answer.pooled for answer in answers if answer is not None}) == 1


def test_a_step_of_weight_zero_does_not_move_the_level() -> None:
    normaliser = LossNormaliser(1)
    sigma_MB = np.array([[0.2, 0.4, 0.6, 0.8]])
    for weight, expected in ((1.0, 0.0), (0.0, 0.0)):
        loss_MB = np.ones((1, 4)) if weight else np.full((1, 4), 2.0)
        residuals = normaliser.residuals(loss_MB, sigma_MB)
        assert residuals is not None
        normaliser.learn(residuals, np.array([weight]))
        assert normaliser.state_dict()["level_M"][0] == pytest.approx(expected)


def test_sigmas_at_and_beyond_the_ends_are_read() -> None:
    normaliser = LossNormaliser(1)
    for _ in range(5):
        learn_one = normaliser.residuals(np.ones((1, 3)), np.array([[0.0, 1.0, 1.5]]))
        assert learn_one is not None
        normaliser.learn(learn_one, ONES[:1])
    assert np.isfinite(learn_one.per_sample_MB).all()
