"""What a person can ask of a run beside going back: how far it acts by itself, save, damp, pause,
continue, stop. Each says what it will do and is asked for once more."""

from collections.abc import Callable
from typing import get_args

import streamlit as st

from ...platform.records import Command, CommandKind, Mode
from ...platform.store import Store
from .. import asks
from ..reads import RunNow
from ..reads_of_control import ControlNow, control_now
from ..sign_in import who_asks
from ..words_of_commands import MODES, NAMES, mode_in_words, why_not, will_do
from .asked import waiting
from .panel import act

_ICONS: dict[CommandKind, str] = {
    "checkpoint": ":material/save:",
    "damp": ":material/volume_down:",
    "pause": ":material/pause:",
    "continue": ":material/play_arrow:",
    "stop": ":material/stop:",
}
_LABELS: dict[CommandKind, str] = {
    "checkpoint": "Save checkpoint…",
    "damp": "Damp…",
    "pause": "Pause…",
    "continue": "Continue…",
    "stop": "Stop…",
}


def asking_key(run_id: str) -> str:
    """Where the session keeps what is about to be asked of a run: one thing at a time."""
    return f"asking_{run_id}"


def render(store: Store, run_id: str) -> None:
    here = control_now(store, run_id)
    now = here.now
    who = who_asks()
    reason = who.why_not or why_not(now)
    with st.container(border=True, key="control"):
        # what comes and goes has a box of its own: else what is below would change its place
        with st.container(key="control_mode"):
            _mode_switch(store, here, reason)
        if not who.may_act:
            st.caption(who.why_not)
        st.markdown("**By hand**")
        kinds: list[CommandKind] = ["checkpoint", "damp", "pause", "stop"]
        if here.is_paused:
            kinds = ["continue", "stop"]
        with st.container(horizontal=True, gap="small"):
            for kind in kinds:
                st.button(
                    _LABELS[kind],
                    key=kind,
                    icon=_ICONS[kind],
                    disabled=bool(reason),
                    help=reason or f"Asks the run to {NAMES[kind]}; you are asked once more.",
                    on_click=st.session_state.update,
                    args=({asking_key(run_id): kind},),
                )
        asking = st.session_state.get(asking_key(run_id))
        with st.container(key="control_question"):
            if asking in kinds and not reason:
                _question(store, now, asking)


def _mode_switch(store: Store, here: ControlNow, reason: str) -> None:
    now = here.now
    # a key with the mode in it: when the trainer has answered, the switch stands where it is
    key = f"mode_{now.run.id}_{now.run.mode}"
    st.session_state.setdefault(key, now.run.mode)
    mode = st.segmented_control(
        "Automatic action",
        list(get_args(Mode)),
        required=True,
        key=key,
        disabled=bool(reason),
        help="\n\n".join(f"**{name}**: {text}" for name, text in MODES.items()),
    )
    asked = [c for c in waiting(here.commands) if c.kind == "set_mode"]
    if mode is None or mode == now.run.mode or reason:
        st.caption(MODES[now.run.mode])
        if asked:
            st.caption(f"Asked: {asked[0].args.get('mode')}; the trainer has not answered yet.")
        return
    st.warning(mode_in_words(mode, now))
    with st.container(horizontal=True, gap="small"):
        st.button(
            f"Yes, set to {mode}",
            key="set_mode",
            type="primary",
            on_click=_ask,
            args=(store, now.run.id, asks.set_mode, mode),
            kwargs={"reset": (key, now.run.mode)},
        )
        st.button(
            "Cancel",
            key="mode_no",
            on_click=st.session_state.update,
            args=({key: now.run.mode},),
        )


def _question(store: Store, now: RunNow, kind: CommandKind) -> None:
    run_id = now.run.id
    args: tuple[object, ...] = ()
    said = ""
    if kind == "damp":
        with st.container(horizontal=True, gap="small"):
            scale = st.number_input(
                "Times the learning rate", 0.01, 0.99, 0.5, 0.05, key="damp_scale", width=180
            )
            steps = int(st.number_input("For steps", 1, 1_000_000, 50, key="damp_steps", width=180))
        args, said = (scale, steps), will_do(kind, now, scale=scale, steps=steps)
    st.warning(said or will_do(kind, now))
    deeds: dict[CommandKind, Callable[..., Command]] = {
        "checkpoint": asks.save_checkpoint,
        "damp": asks.damp,
        "pause": asks.pause,
        "continue": asks.go_on,
        "stop": asks.stop,
    }
    with st.container(horizontal=True, gap="small"):
        st.button(
            f"Yes, {NAMES[kind]}",
            key="deed_yes",
            type="primary",
            on_click=_ask,
            args=(store, run_id, deeds[kind], *args),
        )
        st.button(
            "Cancel",
            key="deed_no",
            on_click=st.session_state.pop,
            args=(asking_key(run_id), None),
        )


def _ask(
    store: Store,
    run_id: str,
    deed: Callable[..., Command],
    *args: object,
    reset: tuple[str, Mode] | None = None,
) -> None:
    st.session_state.pop(asking_key(run_id), None)
    if reset is not None:
        st.session_state[reset[0]] = reset[1]
    act(deed, store, run_id, *args)
