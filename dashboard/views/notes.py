"""What a person writes on a run: its note and its tags."""

from collections.abc import Sequence

import streamlit as st

from ...platform.records import Run
from ...platform.store import Store
from .. import asks
from ..sign_in import who_asks
from ..words import plain
from .panel import act

LONGEST_NOTE = 4000
LONGEST_TAG = 40
MOST_TAGS = 12


def render(store: Store, run: Run) -> None:
    if not who_asks().may_act:
        return  # `shown` tells a viewer the note, the head of the page the tags
    with st.popover("Note and tags", icon=":material/edit_note:", key="notes", width="content"):
        st.text_area(
            "Note",
            value=run.note,
            key=f"note_of_{run.id}",
            max_chars=LONGEST_NOTE,
            placeholder="what this run is for, what was seen",
        )
        st.multiselect(
            "Tags",
            known_tags(store, run),
            default=list(run.tags),
            key=f"tags_of_{run.id}",
            accept_new_options=True,
            max_selections=max(MOST_TAGS, len(run.tags)),
            placeholder="choose, or type a new one",
        )
        st.button(
            "Save",
            key="note_save",
            type="primary",
            help="For everybody who looks at this run. The trainer does not read it.",
            on_click=_save,
            args=(store, run),
        )


def known_tags(store: Store, run: Run) -> list[str]:
    """Returns the tags that any run has, this one's first."""
    others = sorted({tag for other in store.runs(include_archived=True) for tag in other.tags})
    return list(dict.fromkeys([*run.tags, *others]))


def shown(run: Run) -> None:
    """Shows the note, a line of it as a line."""
    for line in run.note.splitlines()[:12]:
        st.caption(plain(line, 400))


def _save(store: Store, run: Run) -> None:
    state = st.session_state
    tags: Sequence[str] = [tag[:LONGEST_TAG] for tag in state[f"tags_of_{run.id}"]]
    act(asks.note_run, store, run.id, state[f"note_of_{run.id}"] or "", tags)
