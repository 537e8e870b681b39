"""What a person writes is kept to the letter, on every store: it is never part of a statement."""

import pytest

from moescope.platform import leases
from moescope.platform.catalogue import LOSS_TOTAL
from moescope.platform.commands import ask, commands
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert, Event, Run
from moescope.platform.series import read_series
from moescope.platform.store import Store

WORDS = [
    "'; DROP TABLE runs; --",
    'a"b',
    "it's",
    "%s %(x)s :name ? $1 {0}",
    "50% \\ back\\slash",
    "line one\nline two",
    "größer ∑ 模型 🎈",
    "x' OR '1'='1",
]


@pytest.mark.parametrize("words", WORDS)
def test_it_is_kept_to_the_letter_and_does_no_harm(store: Store, words: str) -> None:
    other = Run("other", "other", "p", {}, "running", "cpu", "0", 1.0, 1.0)
    store.add_run(other)
    run = Run(words, words, words, {words: words}, "running", words, "0", 2.0, 2.0, tags=(words,))
    store.add_run(run)
    store.update_run(words, note=words)
    event = Event(words, 0, 1, 1.0, "note", words, {words: words})
    store.add_event(event)
    alert = Alert(words, words, 0, words, "info", 1, 1, 1.0, 1.0, words, 1.0, words)
    store.put_alert(alert)
    store.set_alert_state(words, "acknowledged", words, 3.0)
    asked = ask(store, words, "rollback", {words: words}, words, 4.0)
    assert leases.claim(store, words, words, 0.0, 9.0)
    assert leases.holder(store, words, 1.0) == words

    found = store.find_run(words)
    assert (found.id, found.name, found.note, found.tags) == (words, words, words, (words,))
    assert found.config == {words: words}
    assert store.events(words) == [event]
    assert [(a.id, a.message, a.changed_by) for a in store.alerts(words)] == [(words,) * 3]
    assert commands(store, words) == [asked]
    with pytest.raises(MoescopeError, match="unknown signal"):
        read_series(store, words, words)
    assert read_series(store, words, LOSS_TOTAL).steps.tolist() == []
    # and it names nobody else
    assert store.find_run("other") == other
    store.delete_run(words)
    assert [known.id for known in store.runs()] == ["other"]
    with pytest.raises(MoescopeError, match="unknown run"):
        store.find_run(words)
