"""What a model has learned: `evaluate.py` on held-out clips, `probe.py` while it trains; and how good
its clips are: `evaluate_run.py`.
"""
