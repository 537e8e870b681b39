"""A study's trials as one table: what each is, cost and came to, and why some do not count."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ...platform.records import Trial
from .words import short

AT = "at."
"""Begins the name of a column of coordinates: a budget of `tokens` is not the tokens of a run."""
SEED, LEARNING_RATE = f"{AT}seed", f"{AT}optim.learning_rate"
SIZES = (f"{AT}recipe", f"{AT}active_params")
ABLATION = f"{AT}ablation"
BUDGETS = tuple(f"{AT}{unit}" for unit in ("tokens", "tokens_per_param", "flops", "hours"))


def trial_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """Returns one row for each trial, in the order of the plan.

    excluded: why it does not count in a fit or a comparison; empty where it does. A branch has the
    tokens, FLOPs and seconds of its whole path: the trunk's up to where it leaves, and its own.
    alerts: rules that warned, as one text. point: the coordinates without the seed.
    """
    by_key = {trial.key: trial for trial in trials}
    frame = pd.DataFrame([_row(trial, by_key.get(trial.trunk)) for trial in trials])
    return frame.reset_index(drop=True)


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows that count."""
    if frame.empty:
        return frame
    return frame[frame["excluded"] == ""].reset_index(drop=True)


def coordinates(frame: pd.DataFrame) -> list[str]:
    """Returns the columns of coordinates in which rows differ, but not the seed's."""
    return [
        name
        for name in frame.columns
        if name.startswith(AT) and name != SEED and frame[name].map(repr).nunique() > 1
    ]


def word(column: str) -> str:
    """Returns a coordinate's name as it is said: `optim.learning_rate` for its column."""
    return column.removeprefix(AT)


def place(row: "pd.Series[Any]", names: list[str]) -> str:
    """Returns where a row stands in words: `0.8M parameters, moe.expert swiglu`."""
    told = []
    for name in names:
        value = row[name]
        if name == SIZES[1]:
            told.append(f"{short(value)} parameters")
        elif name in BUDGETS or (isinstance(value, float) and name not in SIZES):
            told.append(f"{word(name)} {short(value)}")
        elif name == SIZES[0]:
            told.append(str(value))
        else:
            told.append(f"{word(name)} {value}")
    return ", ".join(told) or "all trials"


def excluded(trial: Trial) -> str:
    """Returns why a trial does not count; empty where it does."""
    result = trial.result
    verdict, why = result.get("verdict", ""), str(result.get("reason") or "")
    if trial.state == "failed":
        return f"failed: {why or 'its reason is not known'}"
    if trial.state != "done":
        return f"not done: it is {trial.state}"
    if verdict == "stopped early":
        return f"stopped early{f': {why}' if why else ''}"
    if verdict == "unstable":
        rules = ", ".join(result.get("alerts", ()))
        return f"unstable: {why or rules or 'it was halted'}"
    if not _is_number(result.get("loss")):
        return "no finite loss"
    return ""


def _row(trial: Trial, trunk: Trial | None) -> dict[str, Any]:
    cost, result, config = trial.cost, trial.result, trial.config
    share = _share_of_trunk(trial, trunk)
    reason = excluded(trial)
    if trial.trunk and trunk is None and not reason:
        reason = "the trial that it branches off is asked for no more: its tokens are not known"
    point = {key: value for key, value in trial.coordinates.items() if key != "seed"}
    seed = trial.coordinates.get("seed", config.get("seed", 0))
    seconds = float(result.get("seconds", float("nan")))
    return {
        "key": trial.key,
        "label": trial.label,
        "run_id": trial.run_id,
        "state": trial.state,
        "verdict": result.get("verdict", ""),
        "num_rollbacks": int(result.get("num_rollbacks", 0)),
        "alerts": ", ".join(result.get("alerts", ())),
        "loss": float(result["loss"]) if _is_number(result.get("loss")) else float("nan"),
        "params": float(cost["active_params"]),
        "total_params": float(cost["total_params"]),
        "tokens": float(cost["tokens"]) + share * _of(trunk, "tokens"),
        "flops": float(cost["flops"]) + share * _of(trunk, "flops"),
        "learning_rate": float(config.get("optim", {}).get("learning_rate", float("nan"))),
        "seed": int(seed),
        **_experts(config),
        "seconds": seconds + (share * _seconds(trunk) if share else 0.0),
        "num_attempts": trial.num_attempts,
        "excluded": reason,
        "point": json.dumps(point, sort_keys=True, default=str),
        **{f"{AT}{name}": value for name, value in trial.coordinates.items()},
    }


def _experts(config: Mapping[str, Any]) -> dict[str, float]:
    """Experts E, granularity d_ff / d_expert (arXiv 2402.07871) and the share of experts that a
    token is sent to, 1 - S of arXiv 2501.12370; a dense network is one expert that all go to."""
    moe, model = config.get("moe", {}), config.get("model", {})
    num_experts = int(moe.get("num_experts", 0))
    if not num_experts:
        return {"experts": 1.0, "granularity": 1.0, "density": 1.0}
    wide = float(model.get("mlp_ratio", 4.0)) * float(model.get("width", 1))
    return {
        "experts": float(num_experts),
        "granularity": wide / float(moe.get("hidden", wide)),
        "density": float(moe.get("num_chosen", 1)) / num_experts,
    }


def _share_of_trunk(trial: Trial, trunk: Trial | None) -> float:
    if trunk is None or not trial.branch_at:
        return 0.0
    return trial.branch_at / float(trunk.config["steps"])


def _of(trunk: Trial | None, name: str) -> float:
    return 0.0 if trunk is None else float(trunk.cost[name])


def _seconds(trunk: Trial | None) -> float:
    return 0.0 if trunk is None else float(trunk.result.get("seconds", 0.0))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value and abs(value) != float("inf")
