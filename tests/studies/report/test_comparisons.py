"""Ablations, seeds, grids and learning rates, against numbers that are come by otherwise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from moescope.studies.report.comparisons import ablations, grid, seeds
from moescope.studies.report.sensitivity import sensitivities
from moescope.studies.report.spread import difference, interval_of_std, noise_of_seeds, spread
from moescope.studies.report.table import counted, trial_table

A, B = [1.02, 1.05, 0.99, 1.04], [1.11, 1.08, 1.16]


def by_seed(losses: list[float], first: int = 0) -> dict[int, float]:
    return {first + i: loss for i, loss in enumerate(losses)}


def test_other_seeds_are_compared_as_welch_does() -> None:
    found = difference(by_seed(A), by_seed(B, first=10))
    want = stats.ttest_ind(A, B, equal_var=False).confidence_interval(0.95)
    assert found.how == "Welch"
    assert found.value == pytest.approx(np.mean(A) - np.mean(B))
    assert (found.low, found.high) == pytest.approx((want.low, want.high))
    assert found.is_told_apart


def test_the_same_seeds_are_paired() -> None:
    other = [1.05, 1.09, 1.01, 1.08]
    found = difference(by_seed(A), by_seed(other))
    want = stats.ttest_rel(A, other).confidence_interval(0.95)
    assert found.how == "paired by seed"
    assert (found.low, found.high) == pytest.approx((want.low, want.high))
    # Welch would not tell them apart: the seeds' luck is larger than the difference
    assert found.is_told_apart
    apart = difference(by_seed(A), by_seed(other, first=10))
    assert apart.high > 0


def test_single_runs_have_no_interval_and_are_not_told_apart() -> None:
    found = difference({0: 1.0}, {0: 1.5})
    assert (found.how, found.value) == ("one run each", -0.5)
    assert np.isnan([found.low, found.high]).all()
    assert not found.is_told_apart


def test_spread_is_students() -> None:
    found = spread(np.array([1.0, 2.0, 3.0]))
    # t(0.975, 2) = 4.302653, std 1, sqrt 3
    assert (found.mean, found.std) == (2.0, 1.0)
    assert found.high - found.mean == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_the_interval_of_a_standard_deviation_is_that_of_chi_squared() -> None:
    # n = 5, std 1: sqrt(4 / 11.14329) and sqrt(4 / 0.484419)
    assert interval_of_std(1.0, 5) == pytest.approx((0.599132, 2.873572), rel=1e-5)


def test_an_ablation_is_told_apart_by_its_pairs(synthetic: Callable[..., Any]) -> None:
    frame = counted(trial_table(synthetic("ablation").rows))
    found = ablations(frame)
    rows = {row.name: row for row in found.rows}
    assert [row.name for row in found.rows] == ["base", "cosine_router", "mlp_router", "no_shared"]
    assert rows["base"].difference is None
    gaps = [rows[name].difference for name in ("cosine_router", "mlp_router", "no_shared")]
    cosine, mlp, shared = (gap for gap in gaps if gap is not None)
    assert cosine.how == shared.how == "paired by seed"
    assert cosine.high < 0 < shared.low
    assert shared.low < 0.02 < shared.high
    # its fourth seed became unstable
    assert (mlp.how, mlp.is_told_apart) == ("Welch", False)
    assert found.noise == pytest.approx(noise_of_seeds(frame))


def test_seeds_have_mean_spread_and_relative_noise(synthetic: Callable[..., Any]) -> None:
    found = seeds(counted(trial_table(synthetic("seeds").rows)))
    losses = np.array(list(found.losses.values()))
    assert found.spread.mean == pytest.approx(losses.mean())
    assert found.noise == pytest.approx(np.log(losses).std(ddof=1))
    assert found.std_low < found.spread.std < found.std_high


def test_a_grid_gives_back_effects_that_add_up(synthetic: Callable[..., Any]) -> None:
    study = synthetic("grid")
    # a lost corner biases no effect
    study.rows = study.rows[:-2]
    found = grid(counted(trial_table(study.rows)))
    effect = {(one.axis, one.level): one.value for one in found.effects}
    assert found.axes == ("moe.num_experts", "model.width")
    # planted: -0.03 for each doubling of experts, -0.001 for each unit of width
    gap = effect["moe.num_experts", "32"] - effect["moe.num_experts", "4"]
    assert gap == pytest.approx(-0.09, abs=0.006)
    gap = effect["model.width", "128"] - effect["model.width", "96"]
    assert gap == pytest.approx(-0.032, abs=0.006)
    assert sum(v for (axis, _), v in effect.items() if axis == "model.width") == pytest.approx(0)
    assert found.rest == pytest.approx(0.004, abs=0.002)
    assert len(found.cells) == 11
    means = [cell.spread.mean for cell in found.cells]
    assert means == sorted(means)


def test_axes_that_go_together_have_no_effects(synthetic: Callable[..., Any]) -> None:
    study = synthetic("grid")
    study.rows = [
        row
        for row in study.rows
        if row.label.startswith(
            (
                "active_params=2.4e+06 num_experts=4 width=96",
                "active_params=2.4e+06 num_experts=8 width=112",
            )
        )
    ]
    found = grid(counted(trial_table(study.rows)))
    assert found.effects == ()
    assert "do not tell the axes apart" in found.remark


def test_sensitivity_is_what_the_paper_says(synthetic: Callable[..., Any]) -> None:
    study = synthetic("sensitivity")
    study.rows.clear()
    for rate, loss, word in (
        (1e-3, 1.5, "healthy"),
        (1e-2, 1.3, "healthy"),
        (1e-1, 9.0, "unstable"),
        (1.0, None, "unstable"),
    ):
        study.add({"optim.learning_rate": rate, "seed": 0}, loss, verdict=word)
    keys = [row.key for row in study.rows]
    (found,) = sensitivities(trial_table(study.rows), dict.fromkeys(keys, 2.0))
    # mean of min(loss, 2): (1.5 + 1.3 + 2 + 2) / 4 = 1.7, less 1.3
    assert found.sensitivity == pytest.approx(0.4)
    assert (found.best_rate, found.start, found.remark) == (1e-2, 2.0, "")


def test_a_best_rate_at_the_edge_is_said(synthetic: Callable[..., Any]) -> None:
    study = synthetic("sensitivity")
    study.rows.clear()
    for rate, loss in ((1e-3, 1.5), (1e-2, 1.3)):
        study.add({"optim.learning_rate": rate, "seed": 0}, loss)
    (found,) = sensitivities(trial_table(study.rows), {})
    assert "the highest that was tried" in found.remark


def test_larger_models_are_more_sensitive_where_that_is_planted(
    synthetic: Callable[..., Any],
) -> None:
    study = synthetic("sensitivity")
    keys = [row.key for row in study.rows]
    found = sensitivities(trial_table(study.rows), dict.fromkeys(keys, 2.0))
    assert [one.params for one in found] == [8e5, 1.6e6, 3.2e6]
    assert found[-1].sensitivity > found[0].sensitivity
    assert found[-1].best_rate < found[0].best_rate
