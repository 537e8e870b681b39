"""The router, and nothing else: who may see anything, which store, which page.

Started by `moescope up` as `python -m streamlit run dashboard/app.py`, with MOESCOPE_HOME, MOESCOPE_STORE and
MOESCOPE_TOKEN in the environment. `.streamlit/config.toml` beside this file holds the rest.
"""

import streamlit as st

from moescope.dashboard.reads import open_for_reading
from moescope.dashboard.sign_in import is_admitted
from moescope.dashboard.views import alerts, no_store, overview, run
from moescope.platform.errors import MoescopeError
from moescope.platform.settings import Settings

st.set_page_config(page_title="moescope", page_icon=":material/monitor_heart:", layout="wide")
