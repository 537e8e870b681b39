"""The browser's tab says how the worst of all runs is."""

from urllib.parse import unquote

import pytest
from streamlit.testing.v1 import AppTest

from moescope.dashboard.theme import ICON, icon_of
from moescope.dashboard.views.tab import title_of
from moescope.platform.attention import Attention, Worst
from moescope.platform.records import Run
from moescope.platform.store import Store


def _tab(store: "Store") -> None:
    import streamlit as st

    from moescope.dashboard.reads_of_attention import attention_now
    from moescope.dashboard.views import tab

    tab.render(store, "Runs")
    st.text(tab.title_of(attention_now(store), "Runs"))


def test_the_state_comes_first_then_the_page() -> None:
    assert title_of(Attention("critical", 2), "Run") == "(2) critical - Run - moescope"
    assert title_of(Attention("fine", 0), "Run") == "Run - moescope"


@pytest.mark.parametrize("state", ["fine", "warning", "critical", "silent"])
def test_an_icon_has_a_colour_of_its_own_and_comes_from_nowhere_else(state: Worst) -> None:
    icon = unquote(icon_of(state))
    assert icon.startswith("data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'")
    assert icon.count("http") == 1
    assert icon_of("fine") == ICON


def test_each_state_has_an_icon_of_its_own() -> None:
    states: tuple[Worst, ...] = ("fine", "warning", "critical", "silent")
    assert len({icon_of(state) for state in states}) == 4


def test_it_is_as_the_store_is(store: Store, spiked_run: Run) -> None:
    page = AppTest.from_function(_tab, args=(store,), default_timeout=20).run()
    assert not page.exception
    assert page.text[0].value == "(1) critical - Runs - moescope"
    (alert,) = store.alerts()
    store.set_alert_state(alert.id, "acknowledged", "ann", 1.0)
    assert page.run().text[0].value == "Runs - moescope"


def test_a_store_that_is_away_leaves_the_tab_as_it_is(store: Store) -> None:
    store.database.write(lambda c: c.exec_driver_sql("DROP TABLE alerts"))
    script = AppTest.from_function(_only_the_tab, args=(store,), default_timeout=20)
    page = script.run()
    assert not page.exception
    assert len(page.warning) == 0  # the page says it


def _only_the_tab(store: "Store") -> None:
    from moescope.dashboard.views import tab

    tab.render(store, "Runs")
