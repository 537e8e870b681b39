"""The dashboard: reads the store, draws, and asks for actions by writing commands.

`app.py` is the router. `reads.py` -> `charts.py` -> `views/`; `asks.py` is the only writer.
No torch here.
"""
