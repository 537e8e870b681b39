"""A law found again: planted ones, published fits, and how often its intervals hold."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest

import moescope
from moescope.platform.errors import MoescopeError
from moescope.studies.laws.checks import diagnose, held_out
from moescope.studies.laws.estimate import Estimate, huber, objective
from moescope.studies.laws.forms import CHINCHILLA, JOINT_MOE
from moescope.studies.laws.law import fit
from moescope.studies.laws.uncertainty import ALONE

Table = dict[str, np.ndarray]
# Published, Table 3 of arXiv 2202.01169, with tolerances of facts: scaling.md 5.1
ROUTERS = {
    "S-Base": (-0.082, -0.108, 0.009, 1.104, 937e9),
    "RL-R": (-0.083, -0.126, 0.012, 1.111, 85e9),
    "Hash": (-0.087, -0.136, 0.012, 1.157, 83e9),
}
# printed errors in percent, by model and multiple of 20 tokens a parameter
HELD_OUT = {
    "c4_original": {("open_lm_1b", 1): 0.78, ("open_lm_1b", 4): 1.50, ("open_lm_7b", 1): 4.3},
    "rpj": {("open_lm_1b", 1): 0.11, ("open_lm_1b", 32): 0.7103, ("open_lm_7b", 1): 0.7320},
    "rw_original": {("open_lm_1b", 1): 0.56, ("open_lm_1b", 16): 0.005, ("open_lm_7b", 1): 1.62},
}


@pytest.mark.parametrize("router", ROUTERS)
def test_the_routed_law_of_clark(router: str, clark: pd.DataFrame) -> None:
    runs = clark[clark.router_type.isin(["Dense", router])]
    law = moescope.fit(
        {
            "params": runs.dense_parameter_count,
            "experts": runs.num_experts,
            "loss": runs.loss_validation,
        },
        "routed",
    )
    a, b, c, d, cutoff = ROUTERS[router]
    found = law.params
    for name, published, error in (
        ("a", a, 2e-3),
        ("b", b, 0.011),
        ("c", c, 1.5e-3),
        ("d", d, 0.01),
    ):
        assert found[name] == pytest.approx(published, abs=error), name
    assert 10 ** (-found["b"] / found["c"]) == pytest.approx(cutoff, rel=0.2)
    assert law.noise / np.log(10) == pytest.approx(0.003, abs=0.001)
    assert law.diagnostics.has_converged


@pytest.mark.parametrize("data", HELD_OUT)
def test_the_held_out_errors_of_gadre_to_the_printed_digits(data: str, gadre: pd.DataFrame) -> None:
    runs = gadre[gadre.dataset == data]
    small = runs.model.isin(["d=96_l=8_h=4", "d=512_l=8_h=4", "d=576_l=24_h=8", "d=1024_l=24_h=8"])
    is_long = (runs.model == "d=96_l=8_h=4") & (runs.chinchilla_multiplier == 16)
    seen = runs[(small & (runs.chinchilla_multiplier == 1)) | is_long]
    assert len(seen) == 5
    law = fit({"params": seen.N, "tokens": seen.D, "loss": seen.loss_c4_val}, "overtraining")
    for (model, multiple), printed in HELD_OUT[data].items():
        run = runs[(runs.model == model) & (runs.chinchilla_multiplier == multiple)]
        error = 100 * abs(law.predict(run.N, run.D) / run.loss_c4_val.to_numpy() - 1)
        digits = len(f"{printed:g}".split(".")[1])
        assert error == pytest.approx(printed, abs=0.51 * 10**-digits), (model, multiple)


@pytest.mark.parametrize("data", ["c4_original", "rpj"])
def test_the_check_says_no_where_the_largest_run_is_missed(data: str, gadre: pd.DataFrame) -> None:
    runs = gadre[(gadre.dataset == data) & (gadre.chinchilla_multiplier == 1)]
    runs = runs[runs.model != "open_lm_1b"]
    law = fit({"params": runs.N, "tokens": runs.D, "loss": runs.loss_c4_val}, "overtraining")
    assert not law.verdict.can_extrapolate
    assert any("are needed" in reason for reason in law.verdict.reasons)


def test_a_plain_script_may_ask_for_an_interval(tmp_path: Path) -> None:
    """No guard around it: processes that fit beside it must not run the script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, moescope\n"
        "print('once')\n"
        "sizes, lengths = np.meshgrid(np.linspace(8, 9, 6), np.linspace(9, 10, 6))\n"
        "N, D = 10 ** sizes.ravel(), 10 ** lengths.ravel()\n"
        "noise = np.exp(np.random.default_rng(0).normal(0, 0.003, N.size))\n"
        "loss = (1.8 + 480 / N**0.35 + 2100 / D**0.37) * noise\n"
        "law = moescope.fit({'params': N, 'tokens': D, 'loss': loss}, 'chinchilla')\n"
        "low, high = law.interval(1e9, 2e10)\n"
        "print(len(law.bootstraps), bool(low < high))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "once"
    num_bootstraps, is_ordered = second.split()
    assert int(num_bootstraps) > ALONE
    assert is_ordered == "True"


class TestPlanted:
    def test_it_is_found_again(self, planted: Callable[..., Table], epoch: dict) -> None:
        law = fit(planted(noise=1e-6))
        for name, value in epoch.items():
            assert law.params[name] == pytest.approx(value, rel=2e-3), name
        assert law.verdict.can_extrapolate
        # G (C / 6)^(beta / (alpha + beta)), facts: scaling.md 2
        budget = 5.76e23
        alpha, beta = epoch["alpha"], epoch["beta"]
        factor = (alpha * epoch["A"] / (beta * epoch["B"])) ** (1 / (alpha + beta))
        best = law.optimal(budget)
        assert best.params == pytest.approx(
            factor * (budget / 6) ** (beta / (alpha + beta)), rel=0.01
        )
        assert best.params == pytest.approx(73.2e9, rel=0.01)
        assert best.tokens == pytest.approx(1.31e12, rel=0.01)
        low, high = best.flat_params
        assert low < best.params < high
        for edge in (low, high):
            assert law.predict(edge, budget / 6 / edge)[0] == pytest.approx(
                1.0025 * best.loss, 1e-4
            )

    def test_eleven_parameters_foretell_where_each_alone_drifts(self) -> None:
        """Recovery of the joint law, as in facts: scaling.md 3: within .7% at noise of .5%."""
        start, most = 2.0732, 290.4521
        constants = {
            "a": np.log(35.91), "b": np.log(35.98), "E0": np.log(1.3637), "alpha": -0.1889,
            "beta": -0.1775, "delta": -0.2285, "omega": 0.5529, "gamma": 0.0098, "zeta": -0.0259,
            "k": np.log(1 / (1 / start - 1 / most)), "Em": np.log(most),
        }  # fmt: skip
        theta = np.array([constants[name] for name in JOINT_MOE.names])
        chance = np.random.default_rng(3)
        runs = {
            "params": 10 ** chance.uniform(7.5, 9.5, 215),
            "tokens": 10 ** chance.uniform(9, 11, 215),
            "experts": 2.0 ** chance.integers(0, 6, 215),
        }
        loss = np.exp(JOINT_MOE.log_loss(theta, runs)[0] + chance.normal(0, 0.005, 215))
        law = fit({**runs, "loss": loss}, "joint_moe")
        larger = {
            "params": np.array([2.7e9, 1.1e9, 3e9]),
            "tokens": np.array([54e9, 22e9, 60e9]),
            "experts": np.array([1.0, 4.0, 8.0]),
        }
        truth = np.exp(JOINT_MOE.log_loss(theta, larger)[0])
        np.testing.assert_allclose(law.predict(**larger), truth, rtol=7e-3)
        low, high = law.interval(**larger)
        assert ((low <= truth) & (truth <= high)).all()

    @pytest.mark.story
    def test_intervals_hold_as_often_as_they_say(
        self, planted: Callable[..., Table], epoch: dict
    ) -> None:
        """Of the prediction, and of the recommended size; 400 tables in `make score`."""
        num, params, tokens = 60, 4e10, 8e11
        truth = epoch["E0"] + epoch["A"] / params ** epoch["alpha"]
        truth += epoch["B"] / tokens ** epoch["beta"]
        best = fit(planted(noise=1e-7)).optimal(1e22).params
        hits = np.zeros(2, int)
        for seed in range(num):
            law = fit(planted(60, 0.01, seed=seed + 1), num_bootstraps=60)
            low, high = law.interval(params, tokens)
            hits[0] += bool(low[0] <= truth <= high[0])
            n_low, n_high = law.optimal(1e22).params_interval
            hits[1] += n_low <= best <= n_high
        for hit in hits:
            interval = binomtest(int(hit), num).proportion_ci(method="wilson")
            assert interval.low <= 0.95 <= interval.high, hits

    def test_an_odd_run_is_named_and_counts_little(
        self, planted: Callable[..., Table], epoch: dict
    ) -> None:
        runs = planted()
        clean = fit(runs).predict(7e10, 1.4e12)
        runs["loss"][17] *= 1.3
        law = fit(runs)
        assert law.diagnostics.outliers == (17,)
        np.testing.assert_allclose(law.predict(7e10, 1.4e12), clean, rtol=2e-3)

    def test_repeated_seeds_tell_the_noise(self, planted: Callable[..., Table]) -> None:
        once, again = planted(80, 0.01, seed=5), planted(80, 0.01, seed=5)
        again["loss"] = again["loss"] * np.exp(np.random.default_rng(9).normal(0, 0.02, 80))
        both = {name: np.concatenate([once[name], again[name]]) for name in once}
        # two runs of one configuration differ by a draw of .02: sigma is .02 / sqrt(2)
        assert fit(both).seed_noise == pytest.approx(0.02 / np.sqrt(2), rel=0.2)
        assert fit(once).seed_noise is None


class TestTraps:
    """What went wrong in published fits is found and said. Source: facts: scaling.md 2.1."""

    def test_a_solver_that_stopped_early(self, planted: Callable[..., Table]) -> None:
        runs = planted()
        columns = {name: runs[name] for name in ("params", "tokens", "loss")}
        log_loss = np.log(runs["loss"])
        hoffmann = np.array([6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083])

        def unscaled(theta: np.ndarray) -> tuple[float, np.ndarray]:
            said, slope = CHINCHILLA.log_loss(theta, columns)
            value, by = huber((said - log_loss) / 1e-3)
            return 1e-6 * value.mean(), 1e-3 * by @ slope / len(said)

        stopped = minimize(unscaled, hoffmann, jac=True, method="L-BFGS-B")
        assert stopped.success
        value, gradient = objective(stopped.x, CHINCHILLA, columns, log_loss)
        early = Estimate(stopped.x, value, float(abs(gradient).max() * 1e-3 / 240), hoffmann, 1, 1)
        assert not diagnose(CHINCHILLA, columns, early).has_converged
        assert fit(runs).estimate.objective < value

    def test_parameters_that_never_moved(self, planted: Callable[..., Table]) -> None:
        runs = planted()
        law = fit(runs)
        start = law.estimate.theta_P + 0.1
        start[:2] = law.estimate.theta_P[:2]
        told = diagnose(CHINCHILLA, runs, law.estimate._replace(start_P=start))
        assert told.unmoved == ("A", "B")
        assert "A, B did not move from the start" in told.warnings

    def test_runs_that_do_not_tell_parameters_apart(self, planted: Callable[..., Table]) -> None:
        runs = planted()
        runs["tokens"] = 20 * runs["params"]
        law = fit(runs)
        assert not law.verdict.can_extrapolate
        assert any("do not tell" in reason for reason in law.verdict.reasons)

    def test_twelve_runs_do_not_pin_five_parameters(self, planted: Callable[..., Table]) -> None:
        law = fit(planted(12))
        assert not law.verdict.can_extrapolate
        assert "12 runs for 5 parameters: at least 15 are needed" in law.verdict.reasons

    def test_a_law_that_bends_beyond_its_runs(self, planted: Callable[..., Table]) -> None:
        runs = planted()
        cost = runs["params"] * runs["tokens"]
        runs["loss"] = runs["loss"] * np.where(cost > np.quantile(cost, 0.9), 1.05, 1.0)
        law = fit(runs)
        found = held_out(CHINCHILLA, law.columns)
        assert found is not None
        assert len(found.rows) == 24
        assert found.mean_error == pytest.approx(0.05 / 1.05, abs=0.01)
        assert any("misses the largest by 4." in reason for reason in law.verdict.reasons)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"form": "chinchila"}, "unknown form chinchila; did you mean chinchilla"),
        ({"form": "joint_moe"}, "no column experts"),
        ({"loss": -1.0}, "loss of row 0 is -1, but must be a positive number"),
        ({"tokens": [1.0, 2.0]}, "of different lengths"),
        ({"params": "many"}, "params holds what is no number"),
        ({"num": 5}, "5 runs do not pin the 5 parameters of chinchilla: at least 6 are needed"),
    ],
)
def test_what_is_no_table_is_one_line(
    change: dict, said: str, planted: Callable[..., Table]
) -> None:
    runs = planted(change.pop("num", 20))
    form = change.pop("form", "chinchilla")
    with pytest.raises(MoescopeError, match=said) as caught:
        fit(runs | change, form)
    assert "\n" not in str(caught.value)


def test_a_law_of_compute_alone_recommends_no_size(planted: Callable[..., Table]) -> None:
    with pytest.raises(MoescopeError, match="cannot weigh params against tokens"):
        fit(planted(40), "compute").optimal(1e21)
