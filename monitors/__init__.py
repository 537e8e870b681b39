"""Watches a training and says what to do about it; it never touches the training itself.

taps -> one packed copy -> signals -> detectors -> rules -> alerts -> policy -> an `Action` that the
trainer carries out. Reading order: `collect.py`, `taps.py`, the `*_signals.py` (pure),
`windows.py`, `detectors/`, `rules.py`, `default_rules.py`, `judge.py`, `policy.py`; `guard.py` is
the gate on the device, `scores/` says what the detectors are worth.
"""
