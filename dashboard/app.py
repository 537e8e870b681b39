"""The router, and nothing else: who may see anything, which store, which page.

`moescope up` starts it by `python -m streamlit run dashboard/door.py` with MOESCOPE_HOME,
MOESCOPE_STORE and the tokens in the environment. `.streamlit/config.toml` lies beside it.
"""

from collections.abc import Sequence

import streamlit as st

from moescope.dashboard.reads import open_for_reading
from moescope.dashboard.sign_in import ask, is_admitted, remember, who_asks
from moescope.dashboard.theme import ICON, PAGE_STYLE
from moescope.dashboard.views import (
    alerts,
    compare,
    control,
    fleet,
    incident,
    no_store,
    rules,
    run,
    studies,
    study,
    system_page,
    tab,
    you,
)
from moescope.dashboard.words import plain
from moescope.platform.errors import MoescopeError
from moescope.platform.settings import Settings
from moescope.platform.store import Store

ADDRESSES = (
    "runs",
    "run",
    "compare",
    "control",
    "alerts",
    "incidents",
    "rules",
    "studies",
    "system",
)
"""Of the pages, to be asked for before signing in."""


def main() -> None:
    st.set_page_config(page_title="moescope", page_icon=ICON, layout="wide")
    st.html(PAGE_STYLE)
    settings = Settings()
    if not is_admitted():
        # a page of each address: else Streamlit forgets which one was asked for
        root = st.Page(_sign_in, title="Sign in", default=True)
        pages = [st.Page(_sign_in, title="Sign in", url_path=path) for path in ADDRESSES]
        st.navigation([root, *pages], position="hidden").run()
        return
    # where the dashboard has a role of its own, nothing here knows the store's owner
    store_url = settings.dashboard_store or settings.store_url
    try:
        store = open_for_reading(store_url)
    except MoescopeError as error:
        remember()
        no_store.render(store_url, str(error))
        return
    if store is None:
        remember()
        no_store.render(store_url)
        return
    _route(store, settings)


def _sign_in() -> None:
    ask()


def _route(store: Store, settings: Settings) -> None:
    def runs_page() -> None:
        wanted = st.query_params.get("run")
        if wanted:  # a link to a run works from the root too
            st.switch_page(the_run, query_params=st.query_params.to_dict())
        if st.query_params.get("runs"):
            st.switch_page(the_comparison, query_params=st.query_params.to_dict())
        if st.query_params.get("study"):
            st.switch_page(the_studies, query_params=st.query_params.to_dict())
        if st.query_params.get("alert"):
            st.switch_page(the_incidents, query_params=st.query_params.to_dict())
        fleet.render(store, open_run, compare_runs)

    def run_page() -> None:
        wanted = run.picked(store, st.query_params.get("run", ""))
        ways = (link_to_incident, link_to_control, link_to_rules, link_to_compare)
        run.render(store, wanted, *ways)

    def control_page() -> None:
        wanted = run.picked(store, st.query_params.get("run", ""))
        control.render(store, wanted, link_to_run, link_to_rules, link_to_alerts)

    def alerts_page() -> None:
        alerts.render(store, link_to_run, link_to_incident)

    def incident_page() -> None:
        wanted = st.query_params.get("alert", "")
        ways = incident.Ways(link_to_steps, link_to_control, link_to_alerts)
        incident.render(store, wanted, link_to_run, link_to_incident, ways)

    def rules_page() -> None:
        rules.render(store)

    def the_system_page() -> None:
        system_page.render(store, settings)

    def compare_page() -> None:
        compare.render(store, link_to_run)

    def studies_page() -> None:
        wanted = st.query_params.get("study")
        if wanted:
            study.render(store, wanted)
        else:
            studies.render(store, link_to_study)

    def link_to_study(label: str, name: str) -> None:
        st.page_link(the_studies, label=plain(label, 80), query_params={"study": name})

    def compare_runs(run_ids: Sequence[str]) -> None:
        st.switch_page(the_comparison, query_params={"runs": ",".join(run_ids)})

    def open_run(run_id: str) -> None:
        st.switch_page(the_run, query_params={"run": run_id})

    def link_to_run(label: str, run_id: str) -> None:
        st.page_link(the_run, label=plain(label, 80), query_params={"run": run_id})

    def link_to_steps(label: str, run_id: str, steps: str) -> None:
        st.page_link(the_run, label=plain(label, 80), query_params={"run": run_id, "steps": steps})

    def link_to_control(label: str, run_id: str) -> None:
        st.page_link(the_control, label=plain(label, 80), query_params={"run": run_id})

    def link_to_rules(label: str, run_id: str) -> None:
        st.page_link(the_rules, label=plain(label, 80), query_params={"run": run_id})

    def link_to_alerts(label: str, run_id: str) -> None:
        st.page_link(the_alerts, label=plain(label, 80), query_params={"run": run_id})

    def link_to_compare(label: str, run_id: str) -> None:
        st.page_link(the_comparison, label=plain(label, 80), query_params={"runs": run_id})

    def link_to_incident(label: str, alert_id: str) -> None:
        st.page_link(the_incidents, label=plain(label, 80), query_params={"alert": alert_id})

    the_run = st.Page(run_page, title="Run", url_path="run", icon=":material/monitoring:")
    the_comparison = st.Page(
        compare_page, title="Compare", url_path="compare", icon=":material/stacked_line_chart:"
    )
    the_studies = st.Page(
        studies_page, title="Studies", url_path="studies", icon=":material/science:"
    )
    the_incidents = st.Page(
        incident_page, title="Incidents", url_path="incidents", icon=":material/search_insights:"
    )
    the_control = st.Page(control_page, title="Control", url_path="control", icon=":material/tune:")
    the_alerts = st.Page(
        alerts_page, title="Alerts", url_path="alerts", icon=":material/notifications:"
    )
    the_rules = st.Page(rules_page, title="Rules", url_path="rules", icon=":material/rule:")

    def the_same_by_its_name() -> None:
        st.switch_page(the_runs, query_params=st.query_params.to_dict())

    the_runs = st.Page(runs_page, title="Runs", icon=":material/list:", default=True)
    pages = [
        the_runs,
        # the first page answers at the root alone, but is asked for by its name while signing in
        st.Page(the_same_by_its_name, title="Runs", url_path="runs", visibility="hidden"),
        the_run,
        the_comparison,
        the_control,
        the_alerts,
        the_incidents,
        the_rules,
        the_studies,
        st.Page(the_system_page, title="System", url_path="system", icon=":material/dns:"),
    ]
    page = st.navigation(pages, position="top")
    remember()
    tab.render(store, page.title)
    you.render(who_asks())
    page.run()


main()
