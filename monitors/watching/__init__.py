"""`moescope.watch` for other people's trainers: `watch.py` is the door, `watched_run.py` what it
returns."""
