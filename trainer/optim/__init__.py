"""How it is learned: `groups.py` makes the optimizer, `schedule.py` its learning rate, `ema.py` the
averaged weights.
"""
