"""A folder of clips and pictures becomes batches: clips.py, classes.py, order.py, decode.py,
decode_pool.py, batches.py, and latents.py where the network sees no pixels; make_clips.py writes
some.

Everything but batches.py and latents.py is free of torch, so that decoding processes stay light.
"""
