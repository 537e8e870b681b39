"""Clips out of a model: `generate.py` goes along the flow, `sample_run.py` writes files."""
