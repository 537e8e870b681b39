"""How the numbers of a report come about, for its readers."""

_TEXT = """
The loss of a trial is the mean training loss of the last tenth of its steps (five at least), of the
branch that training stayed on; a trial counts only if it saw its tokens within 1%.

Size is counted in active parameters: all but the routed experts that a token is not sent to. FLOPs
are of training, attention included. A branch has the tokens and FLOPs of its whole path.

Laws are fitted by least Huber loss of the log loss, from many starts, with analytic slopes;
intervals are of 95% of 200 fits to tables with redrawn residuals. A law may be asked beyond its
runs only if its solver arrived, the runs tell its parameters apart, there are three runs for each
parameter, and a law of the smaller runs foretells the largest tenth within 1% or twice the noise.

Forms are compared by that held-out error, not by how close they lie to what they were fitted to.

Differences are paired by seed where both sides ran with the same seeds, else by Welch; each
interval is of 95% for itself, so that of twenty changes without effect one is told apart.

Learning-rate sensitivity is the mean over the rates of min(loss, loss at initialisation), less the
best (arXiv 2309.14322).

A signal grows from the first of three samples above its least median of five plus six median
absolute deviations (5% at least), if nine of ten later samples stay there. Of attention logits the
bound by the norms of queries and keys is watched.
"""
METHOD = tuple(" ".join(part.split()) for part in _TEXT.strip().split("\n\n"))
"""A paragraph each."""
