"""Colours of figures, for the dashboard and for reports: readable without seeing colour.

Every colour keeps a contrast of at least 3:1 on a light and on a dark background, so a figure need
not know which one it is on. Hues: Okabe and Ito, "Color Universal Design" (2008), shifted in
lightness to meet that bound.
"""

BLUE, ORANGE, GREEN, PINK, GREY = "#0E7ABF", "#D55E00", "#009068", "#B44FB0", "#7F868D"
SERIES = (BLUE, ORANGE, GREEN, PINK, GREY)
"""Of unordered lines, in the order of use."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
"""Each line has its own dash besides its colour."""
RAMP = ("#7A5BC7", "#4372C9", "#0E84B4", "#078D86", "#3A8F4E", "#808A14", "#B57B0C", "#D0621F")
"""Ordered, from the first layer, the smallest size or budget to the last."""
AMBER, RED = "#B9770E", "#D13B2E"
"""Of what wants a look, and of what is wrong."""


def ramp(number: int) -> list[str]:
    """Returns so many ordered colours, from the ramp's first to its last."""
    last = len(RAMP) - 1
    return [RAMP[round(i * last / max(number - 1, 1))] for i in range(number)]


def faded(colour: str, opacity: float) -> str:
    """Returns `#RRGGBB` as an rgba() with that opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
