"""Trials that end before their last step: behind those they are compared with, or unstable."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moescope.platform import catalogue, trials
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import parsed
from moescope.platform.records import Alert, Frame, Run, Segment, Study, Trial
from moescope.platform.store import Store
from moescope.studies.early_stop import ending_of, is_kept
from moescope.studies.results import has_lost_all, result_of
from moescope.studies.spec import StudySpec

STEPS = 40


def spec(**early: Any) -> StudySpec:
    made: StudySpec = parsed(
        StudySpec,
        {
            "name": "s",
            "kind": "grid",
            "axes": {"optim.learning_rate": [1e-3, 2e-3, 3e-3, 4e-3]},
            "budget": {"tokens": [4000]},
            "early_stop": early,
        },
        "study",
    )
    return made


@pytest.fixture
def trial_at(store: Store) -> Callable[..., Trial]:
    """Makes a running trial whose run has these losses so far."""
    number = 0

    def made(losses: list[float], size: float = 1e6) -> Trial:
        nonlocal number
        number += 1
        coordinates = {"optim.learning_rate": number * 1e-3, "active_params": size, "seed": 0}
        asked = trials.trials(store, "s")
        new = Trial(
            "s",
            f"k{number}",
            number,
            f"trial {number}",
            coordinates,
            {"steps": STEPS},
            {"tokens": 4000},
        )
        trials.ask(store, Study("s", {}, "running", 1.0), [*asked, new])
        run_id = f"r{number}"
        store.add_run(Run(run_id, run_id, "p", {}, "running", "cpu", "0", 0.0, 0.0))
        store.add_segment(Segment(run_id, 0, 0, "start", 0.0))
        values = [{catalogue.LOSS_TOTAL: np.array(loss, np.float32)} for loss in losses]
        store.write_frames(
            [Frame(run_id, 0, step, float(step), told) for step, told in enumerate(values)]
        )
        claimed = trials.claim(store, "s", "w", run_id, 1.0, 1e9)
        assert claimed is not None
        return claimed

    return made


class TestHalving:
    def test_the_first_goes_on_and_a_worse_one_ends_at_the_rung(
        self, store: Store, trial_at: Callable[..., Trial]
    ) -> None:
        halving = spec(halving={"rungs": [0.25, 0.5]})
        assert ending_of(store, halving, trial_at([1.0] * 12)) is None
        ending = ending_of(store, halving, trial_at([2.0] * 12))
        assert ending is not None
        assert ending.verdict == "stopped early"
        assert ending.reason == "loss 2.0000 at step 10, the best of 2 has 1.0000"
        assert ending_of(store, halving, trial_at([0.5] * 12)) is None

    def test_what_has_ended_is_compared_with_all_the_same(
        self, store: Store, trial_at: Callable[..., Trial]
    ) -> None:
        """With one slot there is never another that runs."""
        halving = spec(halving={"rungs": [0.25]})
        first = trial_at([1.0] * STEPS)
        assert ending_of(store, halving, first) is None
        assert trials.finish(store, first, {"loss": 1.0, "verdict": "healthy"}, 2.0)
        kept = trials.trials(store, "s")[0].result
        assert kept == {"rungs": {"0.25": 1.0}, "loss": 1.0, "verdict": "healthy"}
        failed = trial_at([1.5] * 12)
        ending_of(store, halving, failed)
        assert trials.fail(store, failed, "ended by signal 9", "", 3.0)
        ending = ending_of(store, halving, trial_at([2.0] * 12))
        assert ending is not None
        assert "the best of 3 has 1.0000" in ending.reason

    def test_before_its_rung_nobody_is_judged(
        self, store: Store, trial_at: Callable[..., Trial]
    ) -> None:
        halving = spec(halving={"rungs": [0.5]})
        trial_at([1.0] * 30)
        assert ending_of(store, halving, trial_at([9.0] * 19)) is None

    def test_another_size_is_not_compared(
        self, store: Store, trial_at: Callable[..., Trial]
    ) -> None:
        halving = spec(halving={})
        assert ending_of(store, halving, trial_at([1.0] * 12, size=4e6)) is None
        assert ending_of(store, halving, trial_at([2.0] * 12, size=1e6)) is None

    def test_what_has_no_finite_loss_is_the_worst(
        self, store: Store, trial_at: Callable[..., Trial]
    ) -> None:
        halving = spec(halving={})
        assert ending_of(store, halving, trial_at([1.0] * 12)) is None
        ending = ending_of(store, halving, trial_at([float("nan")] * 12))
        assert ending is not None
        assert "no finite loss" in ending.reason

    def test_the_result_says_so_and_counts_its_own_steps(
        self, store: Store, trial_at: Callable[..., Trial]
    ) -> None:
        trial = trial_at([1.0] * 12)
        result = result_of(store, trial, "stopped", verdict="stopped early", reason="behind")
        assert (result["verdict"], result["reason"], result["steps"]) == (
            "stopped early",
            "behind",
            12,
        )

    @given(
        st.lists(st.floats(0.1, 10.0), min_size=1, max_size=30),
        st.floats(0.1, 0.9),
    )
    def test_of_many_about_the_share_goes_on_and_always_the_best(
        self, losses: list[float], keep: float
    ) -> None:
        best = min(losses)
        others = [loss for loss in losses if loss > best]
        assert is_kept(best * 0.99, [*others, best], keep)
        # judged last against all others, no more than the share is kept
        kept = [is_kept(loss, losses[:i] + losses[i + 1 :], keep) for i, loss in enumerate(losses)]
        assert sum(kept) <= max(1, keep * len(losses))


class TestUnstable:
    @pytest.fixture
    def alert(self, store: Store) -> Callable[..., None]:
        def put(run_id: str, severity: Any = "critical", state: Any = "open") -> None:
            store.put_alert(
                Alert("a", run_id, 0, "loss_spike", severity, 3, 5, 9.0, 4.0, "m", 1.0, "k", state)
            )

        return put

    def test_a_critical_alert_that_stands_ends_it(
        self, store: Store, trial_at: Callable[..., Trial], alert: Callable[..., None]
    ) -> None:
        trial = trial_at([1.0] * 20)
        alert(trial.run_id)
        ending = ending_of(store, spec(unstable_steps=10), trial)
        assert ending == ("unstable", "loss_spike stands since step 5")
        assert ending_of(store, spec(unstable_steps=15), trial) is None
        assert ending_of(store, spec(), trial) is None

    @pytest.mark.parametrize(("severity", "state"), [("warning", "open"), ("critical", "resolved")])
    def test_a_warning_or_one_that_is_over_does_not(
        self,
        store: Store,
        trial_at: Callable[..., Trial],
        alert: Callable[..., None],
        severity: str,
        state: str,
    ) -> None:
        trial = trial_at([1.0] * 20)
        alert(trial.run_id, severity, state)
        assert ending_of(store, spec(unstable_steps=1), trial) is None


@pytest.mark.parametrize(
    ("losses", "has"),
    [
        ([1.4] * 5 + [1.2] * 5, False),
        ([1.4] * 5 + [1.8] * 5, False),
        ([1.4] * 5 + [1100.0] * 5, True),
        # seen of healthy toy trials: batches lie 2.5 times apart, and the first was low
        ([0.918, 1.794, 2.09, 1.373, 1.2, 1.5, 1.9, 0.9, 2.3, 1.6], False),
        # it went up at once
        ([1.39, 11.65, 89.3, 1e8, 4e9] + [1100.0] * 5, True),
        ([1.4] * 5 + [float("nan")] * 5, True),
        ([], False),
    ],
)
def test_a_run_that_ends_far_above_its_first_loss_has_diverged(
    losses: list[float], has: bool
) -> None:
    every = np.array(losses, np.float32)
    last = every[-5:]
    assert has_lost_all(every, last[np.isfinite(last)]) is has


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"kind": "ladder", "sizes": {"active_params": [1e6]}}, "does not go with kind ladder"),
        ({"early_stop": {"halving": {"rungs": [0.5, 0.25]}}}, "rising shares between 0 and 1"),
        ({"early_stop": {"halving": {"rungs": []}}}, "rising shares between 0 and 1"),
        ({"launch": {"slurm": {"partition": "x"}}}, "has no effect with launcher local"),
        ({"launch": {"lancher": "slurm"}}, "did you mean launch.launcher"),
    ],
)
def test_what_has_no_meaning_is_one_line(keys: dict[str, Any], says: str) -> None:
    base = {
        "name": "s",
        "kind": "grid",
        "axes": {"optim.learning_rate": [1e-3, 2e-3]},
        "budget": {"tokens": [4000]},
        "learning_rate": "fixed",
        "batch": "fixed",
        "early_stop": {"halving": {}},
    }
    with pytest.raises(MoescopeError, match=says):
        parsed(StudySpec, {**base, **keys}, "study")
