"""A folder of clips becomes batches: clips.py, order.py, decode.py, decode_pool.py, batches.py;
make_clips.py writes some.

Everything but batches.py is free of torch, so that decoding processes stay light.
"""
