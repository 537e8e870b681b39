"""States of a run: `checkpoint.py` on disk, `host_ring.py` in memory, `keeping.py` which ones."""
