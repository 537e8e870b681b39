"""Detectors: each turns a stream of values into a score where high is bad, and keeps its state in a
`state_dict`."""
