"""What is learned: `timesteps.py` draws noise levels and noise, `flow.py` is the rectified-flow
loss.
"""
