"""What a person types finds the runs that they mean."""

from typing import Any

import pytest

from moescope.dashboard.run_search import Searched, found, parsed, problem
from moescope.platform.records import Run

CONFIG = {
    "seed": 3,
    "steps": 600,
    "data": {"folder": "clips", "sizes": [8, 16]},
    "moe": {"num_chosen": 2, "num_experts": 8},
    "noise_experts": {"num_experts": 1},
    "optim": {"learning_rate": 0.001, "optimizer": "AdamW", "has_ema": True},
}


def _run(name: str = "amber-finch", config: dict[str, Any] | None = None, **more: Any) -> Searched:
    run = Run(
        f"id-{name}", name, more.pop("project", "video"), CONFIG if config is None else config,
        "running", "cpu", "0.1.0", 1.0, 2.0, tags=more.pop("tags", ()), note=more.pop("note", ""),
    )  # fmt: skip
    facts = {"tag": run.tags, "name": name, "health": "healthy", "loss": 0.42, **more}
    return Searched(run, facts)


def _finds(query: str, one: Searched | None = None) -> bool:
    one = one or _run(tags=("baseline", "two words"), note="with the new sampler")
    return found(query, [one]) == [one.run.id]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "   ",
        "FINCH",
        "amb base",  # of the name and of a tag
        '"new sampler"',
        "video running healthy",
        "-ivory finch",
        "optim.learning_rate=0.001",
        "optim.learning_rate = 1e-3",
        "learning_rate=0.001",
        "Learning_Rate=.001",
        "num_chosen>1",
        "moe.num_chosen >= 2",
        "num_chosen<3 num_chosen<=2",
        "num_experts=1",  # of noise_experts; num_experts=8 is moe's
        "num_experts=8",
        "moe.num_experts!=16",
        "seed=1,2,3",
        "optimizer=adamw",
        "has_ema=true",
        "has_ema!=false",
        "sizes=[8,16]",
        "tag=baseline",
        'tag="two words"',
        "tag!=other",
        "loss<0.5",
        "-loss>0.5",
        "name=amber-finch",
        "-",  # half typed
        "seed=",
        "seed=3,",
        '"amber',
    ],
)
def test_what_fits_is_found(query: str) -> None:
    assert _finds(query)


@pytest.mark.parametrize(
    "query",
    [
        "ivory",
        "amber ivory",  # every word must occur
        '"sampler new"',
        "-finch",
        "optim.learning_rate=0.01",
        "num_chosen>2",
        "num_chosen!=2",
        "moe.num_experts=1",
        "seed=1,2",
        "optimizer=muon",
        "optimizer>a",  # words have no order
        "has_ema=false",
        "tag=base",  # a tag as a whole; the word base finds it
        "tag!=baseline",
        "loss>0.5",
        "nothing=1",
        "nothing!=1",  # a run that has no such key is not asked about
        "optim=1",  # a section is no value
        "learning_rat=0.001",
        "amber-finch=",
    ],
)
def test_what_does_not_fit_is_not_found(query: str) -> None:
    # a comparison without a value asks nothing yet
    assert _finds(query) == query.endswith("=")


def test_a_run_without_tags_has_none_of_that_name() -> None:
    assert _finds("tag!=baseline", _run())
    assert not _finds("tag=baseline", _run())


def test_values_that_are_not_there_yet_are_in_no_comparison() -> None:
    assert not _finds("loss<9", _run(loss=None))
    assert not _finds("loss>0", _run(loss=float("nan")))


def test_a_configuration_that_is_lost_hides_nothing_else() -> None:
    assert _finds("amber", _run(config={}))
    assert not _finds("seed=3", _run(config={}))


def test_runs_come_in_the_order_in_which_they_were_given() -> None:
    runs = [_run("b-finch"), _run("c-heron"), _run("a-finch")]
    assert found("finch", runs) == ["id-b-finch", "id-a-finch"]


def test_a_key_that_no_run_has_is_said_with_near_ones() -> None:
    runs = [_run(), _run(config={})]
    said = problem("router.num_chosn>1", runs)
    assert said == "no run has router.num_chosn; did you mean moe.num_chosen or num_chosen?"
    assert problem("num_chosen>1 tag=x finch", runs) == ""
    assert problem("", []) == ""


def test_blanks_around_an_operator_belong_to_it_but_not_inside_quotes() -> None:
    assert [term.key for term in parsed("seed = 3")] == ["seed"]
    (term,) = parsed('"seed = 3"')
    assert (term.words, term.key) == ("seed = 3", "")
