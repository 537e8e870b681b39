"""Numbers as text that may be none: how NaN and the infinities are written and read again."""

import math

_WORDS = {
    "nan": math.nan,
    "+nan": math.nan,
    "-nan": math.nan,
    "inf": math.inf,
    "+inf": math.inf,
    "-inf": -math.inf,
    "infinity": math.inf,
    "+infinity": math.inf,
    "-infinity": -math.inf,
}


def word_of(value: float) -> float | str:
    """The number, or the word that stands for it where JSON has no number: NaN, Infinity,
    -Infinity."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def number_of(text: str) -> float | None:
    """Reads a number or one of the words, in any case; None of any other text."""
    text = text.strip()
    known = _WORDS.get(text.lower())
    if known is not None:
        return known
    # python reads 1_000 and digits of other scripts, which are names elsewhere
    if not text.isascii() or "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None
