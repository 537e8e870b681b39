"""A dense run becomes one with experts: `plan.py`, `weights.py`, `check.py`; over all: `run.py`."""
