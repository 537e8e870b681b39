"""Laws of a study: the planted one is found, and a dozen toy trials are refused."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from moescope.platform.errors import MoescopeError
from moescope.studies.report.best_sizes import best_sizes
from moescope.studies.report.headline import headline
from moescope.studies.report.law_answers import Laws, allowed_forms, fit_of_study, laws_of
from moescope.studies.report.table import counted, trial_table


@pytest.fixture(scope="module")
def laws(synthetic: Callable[..., Any]) -> Callable[[str], Laws]:
    """Laws of a synthetic study, fitted once."""

    @cache
    def of(kind: str) -> Laws:
        return laws_of(counted(trial_table(synthetic(kind).rows)))

    return of


def test_the_planted_optimum_is_recommended_with_its_interval(
    laws: Callable[[str], Laws], planted_law: dict[str, float]
) -> None:
    found = laws("ladder")
    assert found.can_extrapolate
    assert found.flops_per_6nd == pytest.approx(1.1)
    now, beyond = found.recommended
    p = planted_law
    for one in (now, beyond):
        # N* = G (C / 6)^(beta / (alpha + beta)): facts, scaling.md 2; C without attention's tenth
        g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
        want = g * (one.flops / 1.1 / 6) ** (p["beta"] / (p["alpha"] + p["beta"]))
        assert one.params == pytest.approx(want, rel=0.05)
        assert one.params_interval[0] < want < one.params_interval[1]
        assert one.flat_params[0] < one.params < one.flat_params[1]
    assert (now.is_beyond, beyond.is_beyond) == (False, True)
    assert beyond.flops == pytest.approx(10 * now.flops)


def test_forms_are_in_the_order_of_what_they_foretell(laws: Callable[[str], Laws]) -> None:
    errors = [one.held_out_error or 0.0 for one in laws("ladder").answers]
    assert len(errors) == 4
    assert np.all(np.diff(errors) > -1e-5)
    assert laws("ladder").main == "flow_matching"
    main = laws("ladder").answers[0]
    assert main.intervals["alpha"][0] < 0.38 < main.intervals["alpha"][1]


def test_twelve_toy_trials_are_refused_and_no_size_is_recommended(
    laws: Callable[[str], Laws],
) -> None:
    found = laws("toy")
    assert not found.can_extrapolate
    assert found.recommended == ()
    assert "12 runs for 5 parameters: at least 15 are needed" in found.reasons
    assert found.curve is None or max(found.curve.flops) <= found.curve.measured_to * 1.0001


def test_a_law_that_assumes_more_does_not_speak_for_one_that_is_refused(
    synthetic: Callable[..., Any],
) -> None:
    # twelve nearly exact runs: 4 parameters are pinned, 5 are not
    rows = counted(trial_table(synthetic("ladder", noise=1e-5, sizes=4, lengths=3).rows))
    found = laws_of(rows)
    assert not found.can_extrapolate
    assert found.main == "flow_matching"
    assert found.recommended == ()
    assert not any(one.can_extrapolate for one in found.answers)
    why = [reason for one in found.answers for reason in one.reasons]
    assert "it assumes more than flow_matching, which the same runs do not carry" in why


def test_sizes_that_do_not_differ_are_said(synthetic: Callable[..., Any]) -> None:
    rows = counted(trial_table(synthetic("ladder", sizes=1, lengths=8).rows))
    found = laws_of(rows)
    assert (found.main, found.can_extrapolate, found.curve) == ("", False, None)
    assert "params do not differ between the trials that count" in found.reasons


def test_nothing_that_counts_is_an_answer_too(synthetic: Callable[..., Any]) -> None:
    rows = counted(trial_table(synthetic("ladder").rows[:0]))
    assert allowed_forms(rows) == []
    assert laws_of(rows).reasons == ("no trial counts",)


def test_moe_forms_are_asked_where_experts_differ(synthetic: Callable[..., Any]) -> None:
    study = synthetic("ladder", sizes=2, lengths=2)
    study.add({"tokens": 1e7}, 1.2, params=2e6, tokens=3e7, moe={"num_experts": 16, "hidden": 64})
    allowed = allowed_forms(counted(trial_table(study.rows)))
    assert {"joint_moe", "fine_grained", "sparsity"} <= set(allowed)
    # its constants are of one number of tokens
    assert "routed" not in allowed


def test_a_named_form_is_fitted_to_a_study(synthetic: Callable[..., Any]) -> None:
    rows = counted(trial_table(synthetic("ladder").rows))
    found = fit_of_study(rows, ["compute", "chinchilla"], num_bootstraps=20, seed=0)
    assert [law.form.name for law in found] == ["chinchilla", "compute"]
    with pytest.raises(MoescopeError, match=r"unknown form chinchila; did you mean chinchilla"):
        fit_of_study(rows, ["chinchila"], num_bootstraps=20, seed=0)


def test_vertices_are_the_planted_best_sizes(
    synthetic: Callable[..., Any], planted_law: dict[str, float]
) -> None:
    found = best_sizes(counted(trial_table(synthetic("isoflop").rows)))
    assert [budget.refused for budget in found.budgets] == [""] * 4
    p = planted_law
    want = p["beta"] / (p["alpha"] + p["beta"])
    assert found.exponent == pytest.approx(want, abs=0.03)
    low, high = found.exponent_interval
    assert low < found.exponent < high
    for budget in found.budgets:
        assert budget.params_interval[0] < budget.params < budget.params_interval[1]


def test_a_budget_without_a_vertex_says_why_and_no_line_is_drawn(
    synthetic: Callable[..., Any],
) -> None:
    study = synthetic("isoflop")
    # the three smallest sizes of two budgets: fewer than a parabola needs
    rows = counted(trial_table(study.rows[:3] + study.rows[7:10]))
    found = best_sizes(rows)
    assert {budget.refused for budget in found.budgets} == {"fewer than 4 runs"}
    assert np.isnan(found.exponent)
    assert "a line needs two" in found.refused


def test_the_headline_refuses_where_the_law_does(
    laws: Callable[[str], Laws], synthetic: Callable[..., Any]
) -> None:
    from moescope.studies.report.answers import answers_of

    study = synthetic("toy")
    frame = trial_table(study.rows)
    answers = answers_of(study.study, frame, {})
    said = headline(answers, 12, 12)
    assert "12 trials do not pin the 5 parameters" in said
    assert "do not extrapolate" in said
    assert "train " not in said
