"""What MLflow is given of a run: which numbers, which tags, which files, in which of its runs."""
