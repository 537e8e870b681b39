"""Faults that are planted in real trainings, so that alerts can be scored on what is known."""
