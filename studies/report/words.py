"""Numbers and lists as a person reads them."""

import math
from collections.abc import Sequence

NOTHING = "-"
"""In place of a number that is not there."""
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_RAISED = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)


def short(value: float) -> str:
    """Returns a count in three figures: `1.6M`, `20k`, `0.003`; powers of ten past the units."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if abs(value) >= 1e15 or (value and abs(value) < 1e-4):
        return power(value)
    for size, unit in _UNITS:
        if abs(value) >= 0.9995 * size:
            return f"{_three(value / size)}{unit}"
    return _three(value)


def power(value: float) -> str:
    """Returns a number as `2.5·10¹⁵`."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if not value:
        return "0"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    factor = value / 10**exponent
    if round(abs(factor), 2) >= 10:
        factor, exponent = factor / 10, exponent + 1
    raised = f"10{str(exponent).translate(_RAISED)}"
    return raised if f"{factor:.3g}" == "1" else f"{factor:.3g}·{raised}"


def loss_text(value: float) -> str:
    """Returns a loss with four decimals."""
    return f"{value:.4f}" if value is not None and math.isfinite(value) else NOTHING


def between(low: float, high: float, told: str = "") -> str:
    """Returns an interval: `0.0041 to 0.0203`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOTHING
    return f"{low:{told}} to {high:{told}}" if told else f"{short(low)} to {short(high)}"


def percent(share: float | None) -> str:
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{100 * share:.2g}%" if abs(share) < 0.1 else f"{100 * share:.0f}%"


def listed(names: Sequence[str]) -> str:
    """Returns `a, b and c`."""
    *first, last = names or ("none",)
    return f"{', '.join(first)} and {last}" if first else last


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _three(value: float) -> str:
    """Three figures, without zeros that say nothing, and never as a power."""
    if not value:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value)) + 1e-12))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
