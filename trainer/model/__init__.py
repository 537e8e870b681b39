"""The networks. Read `inputs.py` and `make.py`, then `stream.py`, `class_dit.py`, `wan.py`, and
`noise_experts.py` over any of them; then the parts that they share.
"""
