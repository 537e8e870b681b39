"""What every store promises of the accounts of incidents."""

from dataclasses import replace

import pytest

from moescope.platform.engines import UnknownRun
from moescope.platform.incidents import incident_of, incidents, put_incident
from moescope.platform.records import Incident, Run
from moescope.platform.store import Store

RUN = Run("r1", "first", "demo", {}, "running", "cpu", "0.1", 1000.25, 1001.5)
FIRST = Incident("a1", "r1", 5.0, "unexamined", False, {"movers": [{"step": 3, "score": None}]})


@pytest.fixture
def filled(store: Store) -> Store:
    """A store that knows the run r1."""
    store.add_run(RUN)
    return store


def test_an_account_comes_back_as_it_went_in(filled: Store) -> None:
    put_incident(filled, FIRST)
    assert incident_of(filled, "a1") == FIRST
    assert incident_of(filled, "a2") is None


def test_an_account_with_a_replay_takes_the_place_of_the_first_and_not_the_other_way(
    filled: Store,
) -> None:
    replayed = replace(FIRST, verdict="data", is_replayed=True, made_s=9.0)
    put_incident(filled, FIRST)
    put_incident(filled, replayed)
    # as a journal does that is replayed after a crash
    put_incident(filled, FIRST)
    assert incident_of(filled, "a1") == replayed
    again = replace(replayed, verdict="state", made_s=10.0)
    put_incident(filled, again)
    assert incident_of(filled, "a1") == again


def test_accounts_of_a_run_are_listed_newest_first_and_go_with_it(filled: Store) -> None:
    later = replace(FIRST, alert_id="a2", made_s=6.0)
    put_incident(filled, FIRST)
    put_incident(filled, later)
    assert incidents(filled, "r1") == [later, FIRST]
    filled.delete_run("r1")
    assert incident_of(filled, "a1") is None


def test_an_account_of_an_unknown_run_is_refused(store: Store) -> None:
    with pytest.raises(UnknownRun):
        put_incident(store, FIRST)
