"""What each form says, its slopes, and the constants that were published for it."""

import numpy as np
import pytest

from moescope.studies.laws.forms import FORMS, JOINT_MOE, saturated

NUM_RUNS = 7


def columns(form_name: str) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(1)
    ranges = {
        "params": (7, 10),
        "tokens": (9, 11),
        "flops": (17, 21),
        "tokens_per_param": (0, 3),
        "experts": (0, 2),
        "granularity": (0, 1.2),
        "density": (-1.5, -0.1),
    }
    return {
        name: 10 ** chance.uniform(*ranges[name], NUM_RUNS) for name in FORMS[form_name].columns
    }


@pytest.mark.parametrize("name", FORMS)
def test_the_slopes_are_those_of_the_loss(name: str) -> None:
    form, there = FORMS[name], columns(name)
    theta = np.array([0.3 if n not in form.ranges else np.mean(form.ranges[n]) for n in form.names])
    _, slope = form.log_loss(theta, there)
    for place, parameter in enumerate(form.names):
        step = np.zeros_like(theta)
        step[place] = 1e-6
        more, less = (form.log_loss(theta + sign * step, there)[0] for sign in (1, -1))
        numeric = pytest.approx((more - less) / 2e-6, rel=1e-5, abs=1e-7)
        assert slope[:, place] == numeric, parameter


def test_one_expert_is_es_and_many_are_em() -> None:
    """Ehat(1) is Es, and not 1. Source: facts: scaling.md 3."""
    start, most = 2.0732, 290.4521
    k = 1 / (1 / start - 1 / most)
    ln_effective, _, _ = saturated(np.array([1.0, 1e12]), np.log(k), np.log(most))
    assert np.exp(ln_effective) == pytest.approx([start, most], rel=1e-6)


def test_joint_moe_has_the_published_table() -> None:
    """Table 3's constants give Table 4 of arXiv 2502.05172, within the rounding of .26%."""
    start, most = 2.0732, 290.4521
    k = 1 / (1 / start - 1 / most)
    constants = {
        "a": np.log(35.91), "b": np.log(35.98), "E0": -700.0, "alpha": -0.1889, "beta": -0.1775,
        "delta": -0.2285, "omega": 0.5529, "gamma": 0.0098, "zeta": -0.0259, "k": np.log(k),
        "Em": np.log(most),
    }  # fmt: skip
    theta = np.array([constants[name] for name in JOINT_MOE.names])
    experts = np.array([1.0, 2, 4, 8, 16, 32])
    ones = {"experts": experts, "params": np.ones(6), "tokens": np.ones(6)}
    e = {**ones, "params": np.full(6, np.e), "tokens": np.full(6, np.e)}
    log_1, log_e = JOINT_MOE.terms(theta, ones).log_KR, JOINT_MOE.terms(theta, e).log_KR
    m = [30.3640, 27.7982, 24.8462, 21.8330, 19.0159, 16.5424]
    mu = [-0.1817, -0.1780, -0.1731, -0.1676, -0.1617, -0.1557]
    n = [53.9838, 66.8401, 87.7022, 119.9126, 167.5073, 234.6726]
    nu = [-0.1965, -0.2065, -0.2192, -0.2338, -0.2494, -0.2652]
    assert np.exp(log_1[:2]) == pytest.approx(np.array([m, n]), rel=2.65e-3)
    assert (log_e - log_1)[:2] == pytest.approx(np.array([mu, nu]), rel=2.65e-3)
