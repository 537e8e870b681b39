"""What a model has learned: `evaluate.py` on held-out clips, `probe.py` while it trains; over both
`evaluate_run.py`, which also says how good its clips are.
"""
