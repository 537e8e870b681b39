"""The single-stream video DiT. Read `dit.py`, then `block.py`, `attention.py`, `tokens.py`,
`positions.py`.
"""
