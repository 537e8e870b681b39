"""Synthetic studies: trial rows and series as trainers leave them, without training."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moescope.platform import catalogue, trials
from moescope.platform.records import Frame, Run, Segment, Study, Trial
from moescope.platform.settings import Settings
from moescope.platform.store import Store
from moescope.studies.plan import label_of

FLOPS_PER_6ND = 1.1
"""Attention costs a tenth beyond the parameters."""
LAW = {"E0": 0.9, "A": 40.0, "B": 60.0, "alpha": 0.38, "beta": 0.32}
"""A flow loss with a floor that no model can know."""
START = 2.0
"""Loss at initialisation."""


def law_loss(params: float, tokens: float) -> float:
    """The planted law's loss."""
    size = LAW["A"] * math.exp(-LAW["alpha"] * math.log(params))
    return LAW["E0"] + size + LAW["B"] * math.exp(-LAW["beta"] * math.log(tokens))


@dataclass
class Synthetic:
    """A study that is built trial by trial, and then put into a store."""

    name: str
    kind: str
    spec: dict[str, Any] = field(default_factory=dict)
    rows: list[Trial] = field(default_factory=list)
    stories: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """{key: {signal: values of each step}}"""

    def add(
        self,
        coordinates: Mapping[str, Any],
        loss: float | None,
        *,
        params: float = 1e6,
        tokens: float = 2e7,
        verdict: str = "healthy",
        alerts: Sequence[str] = (),
        num_rollbacks: int = 0,
        reason: str = "",
        state: Any = "done",
        learning_rate: float = 1e-3,
        moe: Mapping[str, Any] | None = None,
        story: dict[str, np.ndarray] | None = None,
        label: str = "",
        **fields: Any,
    ) -> Trial:
        """Adds a trial of 100 steps; state done with a result unless said otherwise."""
        position = len(self.rows)
        key = f"key{position:03d}"
        rate = coordinates.get("optim.learning_rate", learning_rate)
        config = {
            "steps": 100,
            "seed": coordinates.get("seed", 0),
            "optim": {"learning_rate": rate},
            "model": {"width": 128, "mlp_ratio": 4.0},
            "moe": {"num_experts": 8, "num_chosen": 2, "hidden": 128, **(moe or {})},
        }
        cost = {
            "active_params": round(params),
            "total_params": round(3.2 * params),
            "tokens": round(tokens),
            "flops": 6 * params * tokens * FLOPS_PER_6ND,
        }
        result: dict[str, Any] = {}
        if state == "done":
            result = {
                "loss": loss, "tokens": round(tokens), "steps": 100, "seconds": 12.5,
                "verdict": verdict, "alerts": list(alerts), "num_rollbacks": num_rollbacks,
                "reason": reason,
            }  # fmt: skip
        elif state == "failed":
            result = {"reason": reason}
        said = label or label_of(coordinates)
        has_run = state in ("done", "failed", "running")
        run_id = f"{self.name}-{key}" if has_run else ""
        row = Trial(
            self.name, key, position, said, dict(coordinates), config, cost, state=state,
            result=result, num_attempts=int(has_run), run_id=run_id,
            **fields,
        )  # fmt: skip
        self.rows.append(row)
        if story is not None:
            self.stories[key] = story
        return row

    @property
    def study(self) -> Study:
        spec = {"name": self.name, "kind": self.kind, "question": f"What of {self.name}?"}
        return Study(self.name, {**spec, **self.spec}, "running", 1_780_000_000.0)

    def put(self, store: Store) -> "Synthetic":
        """Puts study, trials, runs and series into a store."""
        trials.ask(store, self.study, self.rows)
        for row in self.rows:
            if row.key not in self.stories:
                continue
            run = Run(row.run_id, row.label, self.name, {}, "finished", "cpu", "0", 1.0, 1.0)
            store.add_run(run)
            store.add_segment(Segment(row.run_id, 0, 0, "start", 1.0))
            series = self.stories[row.key]
            steps = max(len(values) for values in series.values())
            store.write_frames(
                [
                    Frame(
                        row.run_id, 0, step, 1.0 + step,
                        {
                            name: np.asarray(values[step], np.float32)
                            for name, values in series.items()
                            if step < len(values)
                        },
                    )
                    for step in range(steps)
                ]
            )  # fmt: skip
        return self


def falling(last: float, steps: int = 100, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    """A loss that falls from START."""
    chance = np.random.default_rng(seed)
    way = np.exp(-np.arange(steps) / (steps / 6))
    return np.asarray(last + (START - last) * way + chance.normal(0, noise, steps))


def diverging(grows_at: int, steps: int = 100, seed: int = 0) -> dict[str, np.ndarray]:
    """MaxVio, then the clamped share, then the gradient, then the loss."""
    chance = np.random.default_rng(seed)
    step = np.arange(steps)

    def growing(at: int, level: float, slope: float, noise: float) -> np.ndarray:
        rise = np.where(step >= at, slope * (step - at + 1), 0.0)
        return np.asarray(level + rise + chance.normal(0, noise, steps))

    loss = falling(1.3, steps, seed=seed) + np.where(
        step >= grows_at, 0.12 * (step - grows_at + 1), 0.0
    )
    layers = growing(grows_at - 22, 0.4, 0.08, 0.03)
    return {
        catalogue.LOSS_TOTAL: loss,
        catalogue.MAX_VIOLATION: np.stack([layers, 0.3 + 0 * layers], 1),
        catalogue.ACTIVATION_CLAMPED_SHARE: np.stack(
            [np.maximum(growing(grows_at - 12, 0.0, 0.004, 0.0), 0.0)] * 2, 1
        ),
        catalogue.GRAD_NORM: growing(grows_at - 5, 0.8, 0.25, 0.05),
        catalogue.ATTENTION_LOGIT_BOUND: np.stack([growing(grows_at - 8, 2.0, 0.4, 0.02)] * 2, 1),
    }


def healthy(last: float, seed: int = 0) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed + 1000)
    return {
        catalogue.LOSS_TOTAL: falling(last, seed=seed),
        catalogue.MAX_VIOLATION: 0.4 + chance.normal(0, 0.03, (100, 2)),
        catalogue.GRAD_NORM: 0.8 + chance.normal(0, 0.05, 100),
    }


def ladder(noise: float = 0.001, sizes: int = 6, lengths: int = 5) -> Synthetic:
    """Sizes by tokens, of the planted law; one trial failed, one waits."""
    study = Synthetic("ladder", "ladder")
    chance = np.random.default_rng(3)
    for params in np.geomspace(5e5, 3.2e7, sizes):
        for tokens in np.geomspace(1e7, 1.6e9, lengths):
            loss = law_loss(params, tokens) * float(np.exp(chance.normal(0, noise)))
            study.add(
                {"active_params": params, "tokens": tokens, "seed": 0},
                loss,
                params=params,
                tokens=tokens,
            )
    study.add(
        {"active_params": 6e7, "tokens": 1e7, "seed": 0},
        None,
        params=6e7,
        tokens=1e7,
        state="failed",
        reason="ended by signal 9",
        num_failures=4,
    )
    study.add(
        {"active_params": 6e7, "tokens": 1e8, "seed": 0},
        None,
        params=6e7,
        tokens=1e8,
        state="waiting",
    )
    return study


def toy() -> Synthetic:
    """Twelve noisy trials: three sizes by two lengths by two seeds."""
    study = Synthetic("toy", "ladder")
    chance = np.random.default_rng(8)
    for params, tokens, seed in itertools.product((1.1e5, 1.6e5, 2.3e5), (6e4, 1.2e5), (0, 1)):
        loss = 1.7 - 0.05 * np.log(params / 1e5) - 0.06 * np.log(tokens / 6e4)
        loss += chance.normal(0, 0.03)
        last = float(loss)
        study.add(
            {"active_params": params, "tokens": tokens, "seed": seed},
            last,
            params=params,
            tokens=tokens,
            story=healthy(last, seed),
        )
    return study


def isoflop() -> Synthetic:
    """Seven sizes at each of four budgets, of the planted law."""
    study = Synthetic("isoflop", "isoflop")
    chance = np.random.default_rng(4)
    for flops in (1e14, 4e14, 1.6e15, 6.4e15):
        best = np.sqrt(flops / 6 / FLOPS_PER_6ND / 25)
        for params in best * np.geomspace(0.3, 3, 7):
            tokens = flops / 6 / FLOPS_PER_6ND / params
            loss = law_loss(params, tokens) * float(np.exp(chance.normal(0, 0.001)))
            study.add(
                {"active_params": float(round(params)), "flops": flops, "seed": 0},
                loss,
                params=params,
                tokens=tokens,
            )
    return study


def ablation() -> Synthetic:
    """Three changes beside the base with four seeds; one change has lost a seed."""
    study = Synthetic("ablation", "ablation")
    chance = np.random.default_rng(5)
    luck = chance.normal(0, 0.004, 4)
    for name, effect in (
        ("base", 0.0),
        ("no_shared", 0.02),
        ("cosine_router", -0.012),
        ("mlp_router", 0.0005),
    ):
        for seed in range(4):
            loss = 1.2 + effect + luck[seed] + chance.normal(0, 0.002)
            lost = name == "mlp_router" and seed == 3
            study.add(
                {"ablation": name, "tokens": 2e7, "seed": seed},
                float(loss),
                verdict="unstable" if lost else "healthy",
                alerts=["loss_spike"] if lost else [],
            )
    return study


def sensitivity(steps: int = 100) -> Synthetic:
    """Rates by sizes with two seeds; the highest rates diverge, earlier for large models."""
    study = Synthetic("sensitivity", "sensitivity", {"axes": {"optim.learning_rate": []}})
    chance = np.random.default_rng(6)
    for params, best in ((8e5, 6e-3), (1.6e6, 4e-3), (3.2e6, 2e-3)):
        for rate, seed in itertools.product((3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (0, 1)):
            loss = law_loss(params, 2e7) + 0.03 * np.log(rate / best) ** 2 + chance.normal(0, 0.004)
            word, alerts, num = "healthy", [], 0
            if rate > 8 * best or (rate > 4 * best and seed):
                word, alerts = "unstable", ["loss_spike", "expert_monopoly"]
            elif rate > 4 * best:
                word, alerts, num = "rolled back", ["loss_spike"], 2
            elif rate > 2 * best:
                word, alerts = "healed", ["gradient_spike"]
            number = len(study.rows)
            story = (
                diverging(60 + 3 * seed, seed=number)
                if word == "unstable"
                else healthy(loss, number)
            )
            study.add(
                {"active_params": params, "optim.learning_rate": rate, "tokens": 2e7, "seed": seed},
                float(loss),
                params=params,
                verdict=word,
                alerts=alerts,
                num_rollbacks=num,
                story=story,
            )
    return study


def seeds() -> Synthetic:
    study = Synthetic("seeds", "seeds")
    for seed, loss in enumerate((1.21, 1.19, 1.2, 1.23, 1.18, 1.205)):
        study.add({"tokens": 2e7, "seed": seed}, loss)
    return study


def grid() -> Synthetic:
    """Experts by width with two seeds, of effects that add up."""
    study = Synthetic("grid", "grid", {"axes": {"moe.num_experts": [], "model.width": []}})
    chance = np.random.default_rng(7)
    for experts, width, seed in itertools.product((4, 8, 16, 32), (96, 112, 128), (0, 1)):
        loss = 1.3 - 0.03 * np.log2(experts / 4) - 0.001 * (width - 96) + chance.normal(0, 0.004)
        study.add(
            {
                "active_params": 2.4e6,
                "moe.num_experts": experts,
                "model.width": width,
                "tokens": 4e7,
                "seed": seed,
            },
            float(loss),
            params=2.4e6,
            tokens=4e7,
            moe={"num_experts": experts},
        )
    return study


KINDS = {
    "ladder": ladder, "isoflop": isoflop, "ablation": ablation, "sensitivity": sensitivity,
    "seeds": seeds, "grid": grid, "toy": toy,
}  # fmt: skip


@pytest.fixture(scope="session")
def synthetic() -> Callable[..., Synthetic]:
    """Makes a study of a kind, or an empty one to add trials to."""

    def made(kind: str, **keys: Any) -> Synthetic:
        if kind in KINDS:
            return KINDS[kind](**keys)
        return Synthetic("own", kind, **keys)

    return made


@pytest.fixture(scope="session")
def planted_law() -> dict[str, float]:
    return LAW


@pytest.fixture(scope="session")
def planted_divergence() -> Callable[..., dict[str, np.ndarray]]:
    return diverging


@pytest.fixture
def settings(tmp_path: Path, put_store: Callable[[Path], str]) -> Settings:
    put_store(tmp_path / "home" / "store.db")
    return Settings(home=tmp_path / "home", mlflow="off")
