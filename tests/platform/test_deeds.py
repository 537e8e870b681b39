"""What people did: a list that only grows, in every store."""

from dataclasses import replace

from moescope.platform.deeds import add_deed, deeds, end_deed
from moescope.platform.records import Deed
from moescope.platform.store import Store

DEED = Deed("d1", 10.0, "ann (operator)", "operator", "rollback", "run", "r1", {"to_step": 50})


def test_a_deed_comes_back_as_it_was_and_what_came_of_it_is_added(store: Store) -> None:
    add_deed(store, DEED)
    assert deeds(store) == [DEED]
    end_deed(store, "d1", "asked")
    assert deeds(store) == [replace(DEED, outcome="asked")]
    end_deed(store, "no such", "asked")
    assert len(deeds(store)) == 1


def test_the_newest_come_first_and_a_page_begins_where_one_ended(store: Store) -> None:
    for number in range(6):
        add_deed(store, replace(DEED, id=f"d{number}", asked_s=float(number)))
    assert [deed.id for deed in deeds(store, most=2)] == ["d5", "d4"]
    assert [deed.id for deed in deeds(store, most=2, before_s=4.0)] == ["d3", "d2"]


def test_they_can_be_asked_for_by_what_they_are_about(store: Store) -> None:
    add_deed(store, DEED)
    add_deed(store, replace(DEED, id="d2", about="study", about_id="s"))
    add_deed(store, replace(DEED, id="d3", about_id="r2"))
    assert [deed.id for deed in deeds(store, about="study")] == ["d2"]
    assert [deed.id for deed in deeds(store, about="run", about_ids=["r1"])] == ["d1"]
    assert deeds(store, about="run", about_ids=[]) == []


def test_odd_text_never_makes_a_deed_unwritable(store: Store) -> None:
    odd = "a\x00b \udcff c' \u6f22"
    add_deed(store, replace(DEED, who=odd, about_id=odd, args={"text": odd}, outcome=odd))
    (found,) = deeds(store)
    assert found.who == "a\ufffdb ? c' \u6f22"
    assert found.args == {"text": odd}
