"""Generated clips: the same prompts side by side, over the checkpoints."""

from pathlib import Path

import streamlit as st

from ...platform.records import Run
from ..reads_of_samples import samples_of
from ..words import plain

MOST_STEPS = 4
"""Checkpoints side by side: more would be too small to judge."""
MOST_PROMPTS = 8


def render(run: Run) -> None:
    """Draws nothing of a run that generated nothing."""
    found = samples_of(run)
    if not found:
        return
    st.subheader("Generated clips")
    steps = list(found)
    if len(steps) > 1:
        steps = st.multiselect(
            "Checkpoints side by side",
            steps,
            default=steps[:MOST_STEPS],
            max_selections=MOST_STEPS,
            format_func=_step,
            key="sample_steps",
        )
    names = list(dict.fromkeys(name for step in steps for name in found[step]))
    for name in names[:MOST_PROMPTS]:
        st.caption(plain(name, 100))
        # oldest at the left, as time goes
        for column, step in zip(st.columns(max(1, len(steps))), sorted(steps), strict=False):
            with column:
                _sample(found[step].get(name))
                st.caption(_step(step))
    if len(names) > MOST_PROMPTS:
        st.caption(f"{len(names) - MOST_PROMPTS} more prompts are in the run's folder.")


def _step(step: int) -> str:
    return "made by hand" if step < 0 else f"step {step:,}"


def _sample(file: Path | None) -> None:
    if file is None:
        st.caption("None of this prompt.")
    elif file.suffix == ".png":
        st.image(str(file))
    else:
        st.video(str(file), loop=True, muted=True, autoplay=True)
