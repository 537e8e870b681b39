"""The one error that a person may see, and how near names are offered."""

import difflib
from collections.abc import Iterable


class MoescopeError(Exception):
    """A mistake that its user can mend: one line that names the thing, its value and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Says which known names are near: `; did you mean tiny?`, or an empty text where none is."""
    near = difflib.get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
