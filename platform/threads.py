"""How compute threads wait for each other."""

import os


def wait_patiently() -> None:
    """Lets OpenMP threads sleep while they wait, unless the environment says otherwise.

    By default they spin, which is fast on idle cores and ruinous on shared ones: with the decoder,
    the service and a browser on the same two cores a `tiny` step took 2.65 s of CPU spinning and
    0.50 s sleeping. Call it before torch is imported; afterwards it has no effect.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
