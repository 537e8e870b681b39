"""Tensor maths with a readable reference each. Read `choice.py`, then a folder's `reference.py`
and its `op.py`.
"""
