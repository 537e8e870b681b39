"""Experts of four forms on routed tokens: `reference.py` says what is computed, `op.py` computes it
fast.
"""
