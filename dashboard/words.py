"""How values are said: numbers with units, ages, and text from runs that must not become markup."""

import html
import math
import re

_LINK = re.compile(r"://|@|www(?=\.)", re.IGNORECASE)
"""What turns bare text into a link, escaped or not."""
_LARGE = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:^=&\"'@/])")


def number(value: float, digits: int = 4) -> str:
    """Says a number with so many significant digits; non-finite ones by name.

    >>> number(0.42131), number(123456.0), number(float("nan"))
    ('0.4213', '123,456', 'not a number')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    size = abs(value)
    if size and (size < 1e-4 or size >= 1e9):
        return f"{value:.{digits - 1}e}"
    if size >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def short(value: float) -> str:
    """Says a large number in three digits: 950, 12.3k, 4.56M, 6.4P; for speeds and counts."""
    if not math.isfinite(value):
        return number(value)
    for size, letter in _LARGE:
        # what three digits round up to 1,000 is one of the next letter
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def age(seconds: float) -> str:
    """Says a duration in its largest two units: 4 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    s = max(0, round(seconds))
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60} s" if s % 60 else f"{s // 60} min"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60} min" if s % 3600 // 60 else f"{s // 3600} h"
    return f"{s // 86400} d {s % 86400 // 3600} h" if s % 86400 // 3600 else f"{s // 86400} d"


def gib(num_bytes: float) -> str:
    """Says a size: 512 MiB, 3.2 GiB."""
    return f"{num_bytes / 2**20:.3g} MiB" if num_bytes < 2**30 else f"{num_bytes / 2**30:.3g} GiB"


def counted(count: float, thing: str) -> str:
    """Says how many there are of a thing whose plural takes an s: 1 alert, 1,200 alerts."""
    return f"{count:,.0f} {thing}{'' if count == 1 else 's'}"


def plain(text: str, most: int = 400) -> str:
    """Escapes a text that came from a run: Markdown shows its characters and nothing else.

    One line, at most `most` characters; what is cut is shown by an ellipsis.
    """
    return _escaped(_line(text, most))


def plain_with_code(text: str, most: int = 1000) -> str:
    """Escapes a text as `plain` does, and shows as code what stands between backticks."""
    parts = _line(text, most).split("`")
    if len(parts) % 2 == 0:
        return plain(text, most)
    return "".join(
        f"`{part}`" if number % 2 and part else _escaped(part) for number, part in enumerate(parts)
    )


def _line(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _escaped(line: str) -> str:
    # a word joiner has no width, and nobody makes a link of what it parts
    parted = _LINK.sub(lambda match: match[0] + "\u2060", line)
    return _MARKDOWN.sub(r"\\\1", parted)


def in_figure(text: str, most: int = 90) -> str:
    """Escapes a text for a plotly label, which would else obey `<a href=...>` and `<b>`."""
    line = " ".join(text.split())
    if len(line) > most:
        line = line[: most - 1] + "…"
    # a percent sign and brace together would start one of plotly's hover fields
    return html.escape(line).replace("%{", "% {")
