"""A question becomes a plan, trials, fits and a report. Empty so far: README.md says what comes."""
