"""A study's trials as a table: every one once, and why some do not count."""

from collections.abc import Callable
from typing import Any

import pytest

from moescope.platform.records import Trial
from moescope.studies.plan import plan
from moescope.studies.report.table import counted, trial_table
from moescope.studies.spec import StudySpec


def test_every_trial_is_there_once_with_what_it_is_and_came_to(
    synthetic: Callable[..., Any],
) -> None:
    study = synthetic("ladder")
    frame = trial_table(study.rows)
    assert frame["key"].tolist() == [row.key for row in study.rows]
    first = frame.iloc[0]
    assert first["params"] == 5e5
    assert first["total_params"] == 1.6e6
    assert first["tokens"] == 1e7
    # 6 N D, and a tenth for attention
    assert first["flops"] == pytest.approx(6 * 5e5 * 1e7 * 1.1)
    assert (first["learning_rate"], first["seed"], first["seconds"]) == (1e-3, 0, 12.5)
    assert first["at.active_params"] == 5e5
    # a quarter of 8 experts; hidden 128 of 4 * 128
    assert (first["experts"], first["density"], first["granularity"]) == (8.0, 0.25, 4.0)


def test_a_branch_has_the_tokens_of_its_whole_path(synthetic: Callable[..., Any]) -> None:
    study = synthetic("ladder", noise=0.0, sizes=1, lengths=1)
    study.rows.clear()
    trunk = study.add({"tokens": 2e7}, 1.0, tokens=2e7)
    study.add({"tokens": 1e7}, 1.1, tokens=2e6, trunk=trunk.key, branch_at=40)
    branch = trial_table(study.rows).iloc[1]
    # 40 of the trunk's 100 steps: 8e6 tokens, and its own 2e6
    assert branch["tokens"] == 1e7
    assert branch["flops"] == pytest.approx(6 * 1e6 * 1e7 * 1.1)
    assert branch["seconds"] == pytest.approx(0.4 * 12.5 + 12.5)
    assert branch["excluded"] == ""


def test_a_plan_with_branches_is_read_as_it_is_written() -> None:
    spec = StudySpec.model_validate(
        {
            "name": "s",
            "kind": "ladder",
            "changes": {"optim.schedule": "wsd"},
            "sizes": {"active_params": [8e5]},
            "budget": {"tokens": [2e6, 4e6]},
            "learning_rate": "fixed",
            "batch": "fixed",
            "has_branches": True,
        }
    )
    planned = plan(spec, {}).trials
    rows = [
        Trial("s", one.key, place, one.label, dict(one.coordinates),
              one.config.model_dump(mode="json"), one.cost._asdict(), one.trunk, one.branch_at)
        for place, one in enumerate(planned)
    ]  # fmt: skip
    frame = trial_table(rows)
    assert [bool(row.trunk) for row in rows] == [False, True]
    for row, one in zip(frame.to_dict("records"), planned, strict=True):
        c = one.config
        assert row["tokens"] == pytest.approx(c.steps * c.data.batch * c.tokens_per_sample)
        assert row["learning_rate"] == c.optim.learning_rate
        assert row["experts"] == c.moe.num_experts
        assert row["density"] == c.moe.num_chosen / c.moe.num_experts
        assert row["granularity"] == pytest.approx(c.mlp_hidden / c.moe.hidden, rel=0.01)
    # at one size FLOPs go with tokens
    flops = frame["flops"] / frame["tokens"]
    assert flops[0] == pytest.approx(flops[1])


def test_a_branch_whose_trunk_is_gone_does_not_count(synthetic: Callable[..., Any]) -> None:
    study = synthetic("ladder", noise=0.0, sizes=1, lengths=1)
    study.rows.clear()
    study.add({"tokens": 1e7}, 1.1, trunk="gone", branch_at=40)
    assert "asked for no more" in trial_table(study.rows)["excluded"].iloc[0]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"state": "waiting"}, "not done: it is waiting"),
        ({"state": "running"}, "not done: it is running"),
        ({"state": "failed", "reason": "ended by signal 9"}, "failed: ended by signal 9"),
        ({"verdict": "unstable", "alerts": ["loss_spike"]}, "unstable: loss_spike"),
        ({"verdict": "unstable"}, "unstable: it was halted"),
        ({"verdict": "stopped early", "reason": "behind 3 of 4"}, "stopped early: behind 3 of 4"),
        ({"loss": None}, "no finite loss"),
        ({"loss": float("nan")}, "no finite loss"),
        ({"verdict": "rolled back", "num_rollbacks": 2}, ""),
        ({"verdict": "healed"}, ""),
    ],
)
def test_what_does_not_count_says_why(
    synthetic: Callable[..., Any], keys: dict[str, Any], said: str
) -> None:
    study = synthetic("seeds")
    study.rows.clear()
    study.add({"seed": 0}, keys.pop("loss", 1.0), **keys)
    frame = trial_table(study.rows)
    assert frame["excluded"].tolist() == [said]
    assert len(counted(frame)) == (said == "")


def test_a_study_without_trials_has_an_empty_table() -> None:
    assert counted(trial_table([])).empty
