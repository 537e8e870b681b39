"""A question becomes a plan, trials, fits and a report. So far: the fits."""
