"""The full MoE video trainer. Read `config.py`, `run.py`, `loop.py`, then the room you need. It
alone changes training state.
"""
