"""Histories in and out: of other trackers into the store, of the store into files.

In: a reader (`*_source.py`) tells what runs a source holds and yields their points in the order in
which they were logged; `names.py` says which signal a name is, `branches.py` where a run went back,
`intake.py` writes. Out: `exporting.py` reads a run stretch by stretch, `export_files.py` writes.
"""
