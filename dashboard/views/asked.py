"""What was asked of a run, and how far it has come: asked, taken, done or refused and why."""

import time

import streamlit as st

from ...platform.records import Command
from ...platform.store import Store
from ..reads import RunNow, recent_commands
from ..reads_of_control import now_of
from ..states_of_a_run import is_paused
from ..words import age, plain
from ..words_of_commands import in_words, way, why_no_answer

SHOWN_ON_A_RUN = 8
_STATES = {
    "asked": (":material/schedule:", "gray"),
    "taken": (":material/hourglass_top:", "blue"),
    "done": (":material/check_circle:", "green"),
    "refused": (":material/block:", "orange"),
}


def render(store: Store, run_id: str, most: int = SHOWN_ON_A_RUN) -> None:
    """Draws the newest commands of a run with their ways and answers."""
    asked = recent_commands(store, run_id, most)
    if not asked:
        st.caption("Nothing was asked of this run yet.")
        return
    now = now_of(store, run_id)
    stands = now.is_live and is_paused(asked, store.segments(run_id))
    for command in asked:
        with st.container(gap="xxsmall", key=f"command_{command.id}"):
            _command(command, now, stands)


def waiting(commands: list[Command]) -> list[Command]:
    """Those that have no answer yet."""
    return [command for command in commands if command.state in ("asked", "taken")]


def _command(command: Command, now: RunNow, stands: bool) -> None:
    now_s = time.time()
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        icon, colour = _STATES[command.state]
        st.badge(command.state, icon=icon, color=colour)  # type: ignore[arg-type]
        st.markdown(f"**{in_words(command)}**", width="content")
    stages = [f"{stage.state} {stage.words}".strip() for stage in way(command, now_s)]
    st.caption(" → ".join(stages))
    if command.answer:
        st.markdown(plain(command.answer))
    if late := why_no_answer(command, now, now_s, stands):
        st.caption(f":material/hourglass_empty: {late}")


def newest_in_words(commands: list[Command], now_s: float) -> str:
    """One line about the newest command; empty where there is none."""
    if not commands:
        return ""
    newest = commands[0]
    when = newest.asked_s if newest.answered_s is None else newest.answered_s
    return f"{in_words(newest)}: {newest.state} {age(now_s - when)} ago"
