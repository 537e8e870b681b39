"""Saved views: one by a name on a page, and not without bounds."""

from dataclasses import replace

import pytest

from moescope.platform import saved_views as views
from moescope.platform.errors import MoescopeError
from moescope.platform.records import SavedView
from moescope.platform.saved_views import remove_view, save_view, saved_views
from moescope.platform.store import Store

VIEW = SavedView("compare", "three seeds", "runs=a%2Cb&x=tokens", "ann", 5.0)


def test_a_view_comes_back_as_it_was_saved(store: Store) -> None:
    save_view(store, VIEW)
    assert saved_views(store, "compare") == [VIEW]
    assert saved_views(store, "run") == []


def test_a_name_that_is_taken_gets_the_new_address(store: Store) -> None:
    save_view(store, VIEW)
    newer = replace(VIEW, query="runs=c", saved_by="bob", saved_s=6.0)
    save_view(store, newer)
    assert saved_views(store, "compare") == [newer]


def test_a_view_that_is_removed_is_gone_and_removing_it_again_is_no_error(store: Store) -> None:
    save_view(store, VIEW)
    save_view(store, replace(VIEW, page="run"))
    for _ in range(2):
        remove_view(store, "compare", VIEW.name)
    assert saved_views(store, "compare") == []
    assert len(saved_views(store, "run")) == 1


@pytest.mark.parametrize("name", ["", "x" * 81])
def test_a_name_that_nobody_could_read_is_refused(store: Store, name: str) -> None:
    with pytest.raises(MoescopeError, match="1 to 80 characters"):
        save_view(store, replace(VIEW, name=name))


def test_a_page_has_no_more_views_than_a_person_reads(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "MOST", 2)
    for name in ("a", "b", "b"):
        save_view(store, replace(VIEW, name=name))
    with pytest.raises(MoescopeError, match="remove one first"):
        save_view(store, replace(VIEW, name="c"))
