"""How long a law and its bootstraps take, beside a plain scipy script of the same objective."""

import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from moescope.studies.laws.law import fit

NUM_RUNS, NUM_BOOTSTRAPS, NUM_PLAIN = 240, 1000, 20


def runs(seed: int = 0) -> dict[str, np.ndarray]:
    """Epoch's parameters of Chinchilla's law (facts: scaling.md 2), with noise of 0.4%."""
    chance = np.random.default_rng(seed)
    params, tokens = (10 ** chance.uniform(*ends, NUM_RUNS) for ends in ((7.5, 10), (9, 11.5)))
    loss = 1.8172 + 477.83 / params**0.34731 + 2143.4 / tokens**0.36717
    return {
        "params": params,
        "tokens": tokens,
        "loss": loss * np.exp(chance.normal(0, 0.004, NUM_RUNS)),
    }


def plain(table: dict[str, np.ndarray], start: np.ndarray) -> np.ndarray:
    """The usual script: the scaled objective, numeric slopes, one start."""
    n, d, log_loss = (np.log(table[name]) for name in ("params", "tokens", "loss"))

    def objective(theta: np.ndarray) -> float:
        a, b, e, alpha, beta = theta
        said = logsumexp([a - alpha * n, b - beta * d, np.full_like(n, e)], axis=0)
        z = np.abs(said - log_loss) / 1e-3
        return float(np.where(z <= 1, z**2 / 2, z - 0.5).sum())

    found: np.ndarray = minimize(objective, start, method="BFGS").x
    return found


def seconds(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def main() -> None:
    table = runs()
    law = fit(table, num_bootstraps=NUM_BOOTSTRAPS)
    fit_s = seconds(lambda: fit(table))
    bootstraps_s = seconds(lambda: law.bootstraps)
    start = law.estimate.theta_P
    plain_s = seconds(lambda: [plain(table, start) for _ in range(NUM_PLAIN)]) / NUM_PLAIN
    print(f"a fit from starts of its own: {fit_s:.2f} s")
    print(f"{NUM_BOOTSTRAPS} bootstraps of {NUM_RUNS} runs: {bootstraps_s:.1f} s (goal: under 10)")
    print(
        f"one of them beside a plain scipy fit from the same start: "
        f"{bootstraps_s / NUM_BOOTSTRAPS / plain_s:.3f} of its {plain_s * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
