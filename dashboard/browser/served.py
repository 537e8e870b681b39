"""Where the browser finds our scripts and plotly's: files that the dashboard's own server serves.

A script that were sent with each chart would be sent again at each refresh. Nothing comes from
another host: plotly.js is the one in plotly's wheel.
"""

from pathlib import Path

import plotly
from streamlit.components.v1 import declare_component

_PLOTLY = Path(plotly.__file__).parent / "package_data"
_OURS = Path(__file__).parent


def plotly_address() -> str:
    """Returns the address of plotly.js, relative to the page."""
    return f"component/{declare_component('plotly', path=_PLOTLY).name}/plotly.min.js"


def address(script: str) -> str:
    """Returns the address of a script of this folder, relative to the page."""
    changed = (_OURS / script).stat().st_mtime_ns  # a new version has a new address
    return f"component/{declare_component('ours', path=_OURS).name}/{script}?{changed:x}"
