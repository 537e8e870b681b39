"""How it is learned: `groups.py` makes the optimizer out of AdamW and `muon.py`, `schedule.py` its
learning rate, `ema.py` the averaged weights.
"""
