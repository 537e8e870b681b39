"""The dashboard's server as `moescope up` starts it: Streamlit with a doorkeeper before it.

`python -m streamlit run dashboard/door.py`; `app.py` is the page that it serves.
"""

from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from moescope.dashboard.doorkeeper import Doorkeeper, names_of, reached_host
from moescope.dashboard.views import compare, fleet, run, system_page
from moescope.platform.settings import Settings

READY = (fleet, run, compare, system_page)
"""Pages that bring pandas and plotly along: loaded before anybody asks, or the first would wait."""
settings = Settings()
keeper = Middleware(Doorkeeper, names=names_of(settings), reached=reached_host(settings))
app = st.App(Path(__file__).with_name("app.py"), middleware=[keeper])
