"""What a rule would have done in a run: in a sentence, on the signal that it judges, as a table."""

import streamlit as st

from ...platform.catalogue import signal_spec
from ...platform.store import Store
from ..charts_of_rules import trial_figure
from ..reads_of_rules import STANDS_FOR, Trial, alarms_of, course_of
from ..rule_text import signals_of, thresholds_of_values
from ..words import plain
from .panel import chart

MOST_PICTURES = 3
"""Rules of one text that are drawn."""


def render(store: Store, yaml: str, run_id: str, run_name: str, found: Trial) -> None:
    for name in found.unheard:
        st.info(f"{plain(name)} had nothing to judge: the run did not measure its signal.")
    over = f"in {found.num_steps:,} steps of {plain(run_name)}"
    num = len(found.alarms)
    if not num:
        st.success(f"No alarm {over}.", icon=":material/check_circle:")
    else:
        st.markdown(f"**{num}** alarm{'s' if num > 1 else ''} {over}.")
    for rule, signal in list(signals_of(yaml).items())[:MOST_PICTURES]:
        if rule not in found.unheard:
            _picture(store, yaml, run_id, rule, signal, found)
    if num:
        st.dataframe(
            found.alarms,
            key="rule_alarms",
            hide_index=True,
            height=min(300, 38 + 35 * num),
            column_config={"value": st.column_config.NumberColumn(format="%.3g")},
        )


def _picture(store: Store, yaml: str, run_id: str, rule: str, signal: str, found: Trial) -> None:
    course = course_of(store, run_id, signal)
    if course is None:
        st.caption(f"`{signal}` has too many entries to be drawn as a line.")
        return
    drawn, series = course
    spec = signal_spec(drawn)
    alarms = [alarm for alarm in alarms_of(found) if alarm.rule == rule]
    what = drawn if spec.is_scalar else f"{drawn}, highest entry"
    st.markdown(f"**{plain(rule, 64)}** :gray[`{drawn}`]")
    figure = trial_figure(
        series,
        alarms,
        name=what,
        unit=spec.unit,
        threshold=thresholds_of_values(yaml).get(rule),
    )
    says = f"{what} over steps, with {len(alarms)} alarms that {rule} would have raised"
    chart(figure, None, f"rule_trial_{rule}", says)
    if signal in STANDS_FOR:
        st.caption(
            f"It judges `{signal}`, sample by sample; the loss of the batch is drawn for it."
        )
