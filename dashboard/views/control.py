"""What a person can ask of a run: go back, save, how far it may act by itself; and the answers."""

import time
from typing import get_args

import streamlit as st

from ...platform.records import Checkpoint, Command, Mode
from ...platform.store import Store
from .. import asks
from ..reads import RunNow, recent_commands
from ..sign_in import who_asks
from ..theme import CHECKPOINTS
from ..words import age, number, plain
from .panel import act

MODES: dict[Mode, str] = {
    "on": "It skips data, damps or rolls back by itself, within its budget.",
    "advisory": "It decides and shows what it would do, and does nothing.",
    "off": "It only alerts.",
}
_COMMANDS = {
    "rollback": "roll back",
    "checkpoint": "save a checkpoint",
    "damp": "damp the learning rate",
    "pause": "pause",
    "continue": "continue",
    "set_mode": "set automatic action",
    "set_rules": "change rules",
    "stop": "stop",
}
_STATES = {
    "asked": (":material/schedule:", "gray"),
    "taken": (":material/hourglass_top:", "blue"),
    "done": (":material/check_circle:", "green"),
    "refused": (":material/block:", "orange"),
}


def render(store: Store, now: RunNow) -> None:
    """Draws the switch, the buttons and, once asked for, the question before a rollback."""
    run = now.run
    asking = f"asking_rollback_{run.id}"
    why_not = _why_not(now)
    with st.container(border=True, key="control"):
        with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
            _mode_switch(store, now, why_not)
            st.button(
                "Roll back…",
                key="roll_back",
                icon=":material/undo:",
                disabled=bool(why_not),
                help=why_not or "Choose a checkpoint; you are asked once more.",
                on_click=st.session_state.update,
                args=({asking: True},),
            )
            if st.button(
                "Save checkpoint",
                key="save_checkpoint",
                icon=":material/save:",
                disabled=bool(why_not),
                help=why_not or "The trainer writes its state to disk at the next step.",
            ):
                act(asks.save_checkpoint, store, run.id)
        if why_not:
            st.caption(why_not)
        elif st.session_state.get(asking):
            _question(store, now, asking)


def _why_not(now: RunNow) -> str:
    if not (who := who_asks()).may_act:
        return who.why_not
    if not now.is_live:
        return f"The run has {now.run.status}; there is no trainer that could take a command."
    if now.lamp == "silent":
        return (
            f"The last heartbeat is {age(now.heartbeat_age_s)} old, so nobody would take a command."
        )
    return ""


def _mode_switch(store: Store, now: RunNow, why_not: str) -> None:
    mode = st.segmented_control(
        "Automatic action",
        list(get_args(Mode)),
        default=now.run.mode,
        required=True,
        key=f"mode_{now.run.id}_{now.run.mode}",
        disabled=bool(why_not),
        help="\n\n".join(f"**{name}**: {text}" for name, text in MODES.items()),
    )
    if mode is None or mode == now.run.mode:
        return
    is_sent = st.button(f"Set to {mode}", key="set_mode", type="primary", help=MODES[mode])
    if is_sent and act(asks.set_mode, store, now.run.id, mode) is not None:
        st.toast(f"Asked: automatic action {mode}.")


def _question(store: Store, now: RunNow, asking: str) -> None:
    # newest first, one per step: a later branch's checkpoint of a step replaces the earlier one's
    targets = {
        c.step: c
        for c in sorted(store.checkpoints(now.run.id), key=lambda c: (c.segment, c.step))
        if c.health != "tainted"
    }
    if not targets:
        st.info("There is no checkpoint yet that the run could go back to.")
        st.button("Close", key="rollback_close", on_click=st.session_state.pop, args=(asking,))
        return
    steps = sorted(targets, reverse=True)
    certified = [i for i, step in enumerate(steps) if targets[step].health == "certified"]
    # options that change their words at each refresh would close the open list: no ages here
    step = st.selectbox(
        "Go back to",
        steps,
        index=certified[0] if certified else 0,
        format_func=lambda s: _target_in_words(targets[s]) if s in targets else str(s),
        key="rollback_target",
    )
    if step not in targets:
        return
    target = targets[step]
    st.warning(asks.rollback_in_words(now.step, target, f"**{plain(now.run.name)}**"))
    with st.container(horizontal=True):
        st.button(
            f"Yes, roll back to step {target.step}",
            key="rollback_yes",
            type="primary",
            on_click=_ask_rollback,
            args=(store, now.run.id, target.step, asking),
        )
        st.button("Cancel", key="rollback_no", on_click=st.session_state.pop, args=(asking,))


def _ask_rollback(store: Store, run_id: str, step: int, asking: str) -> None:
    st.session_state.pop(asking, None)
    act(asks.roll_back, store, run_id, step)


def _target_in_words(checkpoint: Checkpoint) -> str:
    where = "" if checkpoint.is_on_disk else ", in memory"
    return f"step {checkpoint.step:,}: {CHECKPOINTS[checkpoint.health].word}{where}"


def answers(store: Store, run_id: str) -> None:
    """Draws the newest commands with their states and answers."""
    asked = recent_commands(store, run_id)
    if not asked:
        st.caption("Nothing was asked of this run yet.")
    now_s = time.time()
    for command in asked:
        icon, colour = _STATES[command.state]
        with st.container(
            horizontal=True, vertical_alignment="center", gap="small", key=f"command_{command.id}"
        ):
            st.badge(command.state, icon=icon, color=colour)  # type: ignore[arg-type]
            st.markdown(
                f"**{_in_words(command)}** "
                f":gray[by {plain(command.asked_by, 40)}, {age(now_s - command.asked_s)} ago]",
                width="content",
            )
        if command.answer:
            st.caption(plain(command.answer))


def _in_words(command: Command) -> str:
    versions = command.args.get("versions")
    if command.kind == "set_rules" and isinstance(versions, list):
        names = ", ".join(str(version.get("name", "")) for version in versions)
        return f"{_COMMANDS[command.kind]} ({plain(names, 80)})"
    args = ", ".join(
        f"{name.replace('_', ' ')} {number(value) if isinstance(value, float) else value}"
        for name, value in command.args.items()
        if value is not None
    )
    words = _COMMANDS.get(command.kind, command.kind)
    return f"{words} ({plain(args, 80)})" if args else words
