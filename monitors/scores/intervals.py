"""How sure a count is: an upper bound of a rate, an interval of a share."""

import math

from scipy.stats import chi2

Z_95 = 1.959964
"""97.5% of a standard normal lie below it."""


def poisson_upper(num_events: int, confidence: float = 0.95) -> float:
    """The largest mean count under which as few events or fewer are no rarer than 1 - confidence.

    chi2^-1(confidence; 2 (k + 1)) / 2: exact and one-sided; 0 events give -ln 0.05 = 3.00.
    """
    return float(chi2.ppf(confidence, 2 * (num_events + 1)) / 2)


def wilson(num_found: int, num_all: int) -> tuple[float, float]:
    """The 95% interval of a share after Wilson: (p + z^2/2n +- z sqrt(p q / n + z^2/4n^2)) /
    (1 + z^2/n)."""
    share, z2 = num_found / num_all, Z_95**2
    middle = share + z2 / (2 * num_all)
    half = Z_95 * math.sqrt(share * (1 - share) / num_all + z2 / (4 * num_all**2))
    scale = 1 + z2 / num_all
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
