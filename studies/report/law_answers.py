"""The laws that a study's runs allow: fitted, compared by what they foretell, and refused where the
runs do not carry them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...platform.errors import MoescopeError
from ..laws.checks import MOST_CONDITION
from ..laws.forms import FORMS, Array
from ..laws.law import Law, fit
from .law_curve import SAME, Curve, Recommended, curve_of, flops_per_6nd, recommended

NUM_BOOTSTRAPS = 200
"""As many as `laws` makes without starting other processes."""
NUM_STARTS = 16
"""Of a fit: a dozen noisy runs take them all, and a report must not take minutes."""
NUM_OF_OTHERS = 60
"""For forms that the study is not judged by: enough for 95%, barely."""
BEYOND = 10.0
"""A law that may be asked beyond its runs is asked for this many times the largest budget."""
MOE_COLUMNS = ("experts", "granularity", "density")
FREE = "flow_matching"
"""The law in which size and tokens have an exponent each, and nothing else is assumed."""
SAME_AS_FREE = "chinchilla"
ASSUMING = "overtraining"
"""Says that both have the same exponent: runs that do not pin FREE cannot tell."""
ORDER = (
    FREE, SAME_AS_FREE, ASSUMING, "joint_moe", "fine_grained", "sparsity", "routed", "compute",
)  # fmt: skip
"""Of forms that foretell equally well the first is taken: the models are trained on flows."""


class LawAnswer(NamedTuple):
    """What is known of one form."""

    form: str
    formula: str
    source: str
    num_runs: int
    num_parameters: int
    is_fitted: bool
    can_extrapolate: bool
    reasons: tuple[str, ...]
    """Why it may not be asked beyond its runs, or was not fitted."""
    params: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """95%, of the bootstraps; empty where the runs do not tell the parameters apart, or the form is
    neither to be asked nor what the study is judged by."""
    noise: float
    """Standard deviation of log loss around it."""
    seed_noise: float | None
    held_out_error: float | None
    held_out_keys: tuple[str, ...]
    """Trials that a law of the others was asked for."""
    outliers: tuple[str, ...]
    diagnostics: dict[str, Any]

    @property
    def is_pinned(self) -> bool:
        """Whether the runs tell the parameters apart; else bootstraps wander without end."""
        return self.is_fitted and bool(self.diagnostics["condition"] <= MOST_CONDITION)


class Laws(NamedTuple):
    answers: tuple[LawAnswer, ...]
    """From the lowest held-out error on; those without one come last."""
    main: str
    """The form that the study is judged by; empty where none could be fitted."""
    can_extrapolate: bool
    reasons: tuple[str, ...]
    recommended: tuple[Recommended, ...]
    """Empty where the main law may not be asked beyond its runs."""
    curve: Curve | None
    flops_per_6nd: float
    others: dict[str, float]
    """What else the main law reads, as experts, with the value of the best run."""


def laws_of(frame: pd.DataFrame, *, seed: int = 0, num_bootstraps: int = NUM_BOOTSTRAPS) -> Laws:
    """Fits every form that the columns allow. frame: rows that count.

    Judged by is the form with the least held-out error among those that weigh params against tokens
    and may be asked beyond the runs; where none may, the one that assumes least.
    """
    answers: list[LawAnswer] = []
    laws: dict[str, Law] = {}
    allowed = allowed_forms(frame)
    for form in dict.fromkeys((FREE, *allowed)):
        if form == SAME_AS_FREE:
            # one algebra: what is found once need not be sought again
            named = FORMS[form]
            answers.append(
                answers[0]._replace(form=form, formula=named.formula, source=named.source)
            )
            continue
        # a factor that no run pins may be past what a number can hold
        with np.errstate(over="ignore"):
            answer, law = _asked(frame, form, seed, is_allowed=form in allowed)
        answers.append(answer)
        if law is not None:
            laws[form] = law
    main = _chosen(answers)
    if not main.can_extrapolate:
        answers = [_overruled(one) for one in answers]
    reasons, ratio = main.reasons, flops_per_6nd(frame)
    if main.form not in laws:
        return Laws(tuple(sorted(answers, key=_rank)), "", False, reasons, (), None, ratio, {})
    laws[main.form] = law = replace(laws[main.form], num_bootstraps=num_bootstraps)
    best = frame.loc[frame["loss"].idxmin()]
    others = {name: float(best[name]) for name in FORMS[main.form].columns if name in MOE_COLUMNS}
    most = float(frame["flops"].max())
    sizes: tuple[Recommended, ...] = ()
    if main.can_extrapolate:
        sizes = tuple(recommended(law, frame, flops, others) for flops in (most, BEYOND * most))
    until = BEYOND if main.can_extrapolate else 1.0
    curve = curve_of(law, frame, until, others, has_band=main.is_pinned)
    laws[SAME_AS_FREE] = laws.get(FREE, law)
    told = tuple(
        _with_intervals(one, laws.get(one.form))
        if one.can_extrapolate or one.form == main.form
        else one
        for one in sorted(answers, key=_rank)
    )
    return Laws(told, main.form, main.can_extrapolate, reasons, sizes, curve, ratio, others)


def allowed_forms(frame: pd.DataFrame) -> list[str]:
    """Returns the forms whose columns vary in the table, in the order of preference."""
    has = {name for name in ("params", "tokens", "flops", *MOE_COLUMNS) if _varies(frame, name)}
    if len(frame) and (frame["tokens"] / frame["params"]).pipe(lambda m: m.max() / m.min()) > SAME:
        has.add("tokens_per_param")
    # its constants are of one number of tokens: arXiv 2202.01169
    without = {"routed"} if "tokens" in has else set()
    return [name for name in ORDER if set(FORMS[name].columns) <= has and name not in without]


def columns_for(frame: pd.DataFrame, form: str) -> dict[str, Array]:
    """Returns the columns that a form reads, and the loss; of sparsity params are the total."""
    reads = {
        "tokens_per_param": frame["tokens"] / frame["params"],
        **{name: frame[name] for name in ("params", "tokens", "flops", "loss", *MOE_COLUMNS)},
    }
    if form == "sparsity":
        reads["params"] = frame["total_params"]
    if form == ASSUMING:
        # the form's C is 6 params tokens
        reads["flops"] = 6 * frame["params"] * frame["tokens"]
    wanted = (*FORMS[form].columns, "loss")
    return {name: reads[name].to_numpy(float) for name in wanted}


def fit_of_study(
    frame: pd.DataFrame, forms: Sequence[str], *, num_bootstraps: int, seed: int
) -> list[Law]:
    """Fits the named forms to rows that count, from the lowest held-out error on; without names
    the first that the columns allow. Raises MoescopeError where one cannot be fitted."""
    names = list(forms) or allowed_forms(frame)[:1]
    if not names:
        raise MoescopeError(f"no law can be fitted: {_why_not(frame)}")
    laws = []
    for name in names:
        # an unknown form is told of by `fit`
        columns = columns_for(frame, name) if name in FORMS else {}
        laws.append(fit(columns, name, num_bootstraps=num_bootstraps, seed=seed))
    return sorted(laws, key=lambda law: np.inf if law.held_out is None else law.held_out.mean_error)


def _asked(
    frame: pd.DataFrame, form: str, seed: int, *, is_allowed: bool
) -> tuple[LawAnswer, Law | None]:
    chosen = FORMS[form]
    head = (form, chosen.formula, chosen.source, len(frame), len(chosen.names))
    none = LawAnswer(*head, False, False, (), {}, {}, np.nan, None, None, (), (), {})
    if not is_allowed:
        return none._replace(reasons=(_why_not(frame),)), None
    try:
        law = fit(
            columns_for(frame, form),
            form,
            num_bootstraps=NUM_OF_OTHERS,
            seed=seed,
            num_starts=NUM_STARTS,
        )
    except MoescopeError as error:
        return none._replace(reasons=(str(error),)), None
    keys = frame["key"].tolist()
    out, found = law.held_out, law.diagnostics
    answer = none._replace(
        is_fitted=True,
        can_extrapolate=law.verdict.can_extrapolate,
        reasons=law.verdict.reasons,
        params=law.params,
        noise=law.noise,
        seed_noise=law.seed_noise,
        held_out_error=None if out is None else out.mean_error,
        held_out_keys=() if out is None else tuple(keys[row] for row in out.rows),
        outliers=tuple(keys[row] for row in found.outliers),
        diagnostics={**found._asdict(), "warnings": list(found.warnings)},
    )
    return answer, law


def _chosen(answers: Sequence[LawAnswer]) -> LawAnswer:
    """A study is refused where the law that assumes least is: one that assumes more may fit a dozen
    runs and be wrong."""
    by_form = {one.form: one for one in answers}
    may = [one for one in answers if one.can_extrapolate and _weighs(one.form)]
    if not by_form[FREE].can_extrapolate:
        may = [one for one in may if one.form not in (ASSUMING, SAME_AS_FREE)]
    return min(may, key=_rank) if may else by_form[FREE]


def _overruled(answer: LawAnswer) -> LawAnswer:
    if not answer.can_extrapolate:
        return answer
    reason = f"it assumes more than {FREE}, which the same runs do not carry"
    return answer._replace(can_extrapolate=False, reasons=(reason,))


def _with_intervals(answer: LawAnswer, law: Law | None) -> LawAnswer:
    if law is None or not answer.is_pinned:
        return answer
    with np.errstate(over="ignore", invalid="ignore"):
        return answer._replace(intervals=law.parameter_intervals())


def _rank(answer: LawAnswer) -> tuple[bool, float, int]:
    error = answer.held_out_error
    # rounded: two forms of one algebra differ in the last digits of the solver
    least = np.inf if error is None else round(error, 5)
    return not answer.is_fitted, least, ORDER.index(answer.form)


def _weighs(form: str) -> bool:
    columns = set(FORMS[form].columns)
    return {"params", "tokens"} <= columns or "tokens_per_param" in columns


def _varies(frame: pd.DataFrame, name: str) -> bool:
    return bool(len(frame) and frame[name].max() > SAME * frame[name].min())


def _why_not(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "no trial counts"
    same = [name for name in ("params", "tokens") if not _varies(frame, name)]
    if same:
        return f"{' and '.join(same)} do not differ between the trials that count"
    return "no form reads what differs between the trials"
