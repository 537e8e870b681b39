"""What runs in the browser: each `.js` lies beside the `.py` that mounts it.

Data reach it as JSON and become text nodes and plotly figures, never HTML.
"""
