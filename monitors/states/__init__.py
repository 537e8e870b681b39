"""States of a training: `checkpoint.py` on disk, `host_ring.py` in memory, `keeping.py` which ones,
`chance.py` the random generators."""
