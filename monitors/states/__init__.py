"""States of a training: `checkpoint.py` on disk, `host_ring.py` in memory, `keeping.py` which ones,
`retiring.py` which stay, `stamps.py` their health, `chance.py` the random generators."""
