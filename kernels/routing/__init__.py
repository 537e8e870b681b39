"""Which experts a token goes to, and with what weights: `reference.py` is the definition, `op.py`
the fast path.
"""
