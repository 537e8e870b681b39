"""Scores of the loss detectors on recorded curves: how often they cry wolf, what they find, how
late.

curves (read, grouped, split) -> rules (ours through the judge, public ones beside them) -> shapes
planted at many places, and recorded spikes -> counts with intervals. No torch.
Reading order: `curves.py`, `public_rules.py`, `our_rules.py`, `shapes.py`, `recorded.py`,
`intervals.py`, `score.py`, `roc.py`, `report.py`.
"""
