"""Sorting tokens by expert and back: `reference.py` is the definition, `op.py` the path with
gathers both ways.
"""
