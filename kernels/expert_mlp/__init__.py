"""SwiGLU experts on routed tokens: `reference.py` says what is computed, `op.py` computes it
fast.
"""
