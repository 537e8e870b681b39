"""The browser keeps what a person would else type again: the token, and the name.

Its storage belongs to one origin, port included; a cookie would be sent to every port of the host,
and so to other people's servers.
"""

from dataclasses import dataclass

import streamlit as st

_JS = """
export default function ({ data, setTriggerValue }) {
  const names = { token: "moescope-token", name: "moescope-name" };
  const kept = {};
  try {
    for (const [what, key] of Object.entries(names)) {
      if (data.forget.includes(what)) window.localStorage.removeItem(key);
      else if (data[what]) window.localStorage.setItem(key, data[what]);
      else if (window.localStorage.getItem(key)) kept[what] = window.localStorage.getItem(key);
    }
  } catch (error) { /* storage is switched off: the session alone remembers */ }
  if (Object.keys(kept).length) setTriggerValue("kept", kept);
}
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the browser had; empty until it has answered, and where it had nothing."""

    token: str = ""
    name: str = ""


def browser_keeps(token: str = "", name: str = "", forget: tuple[str, ...] = ()) -> Kept:
    """Writes what is given, forgets what is named, and returns what it kept of the rest."""
    keeper = st.components.v2.component("moescope_keeper", js=_JS)
    answer = keeper(
        key="moescope_keeper",
        data={"token": token, "name": name, "forget": list(forget)},
        on_kept_change=lambda: None,
        height=1,
    )
    kept = answer.get("kept")
    if not isinstance(kept, dict):
        return Kept()
    return Kept(str(kept.get("token") or ""), str(kept.get("name") or ""))
