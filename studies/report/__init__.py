"""What a study found: its table, answers, stability frontier and figures, as one page."""
