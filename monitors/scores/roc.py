"""How false events are traded for detections of a small spike, as thresholds move."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..plain_rules import PLAIN_RULES
from .curves import Curve
from .our_rules import JudgedRules, scaled
from .public_rules import SigmaRule
from .score import WARM_UP_STEPS, Places, detection, false_events
from .shapes import SHAPES, SMALL_SPIKE

FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
"""Of the thresholds of all rules of the table."""
PERSISTENCE = (2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
"""Sigmas of the rule `loss_spike` alone: three of five steps above them."""
SIGMAS = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0)
"""Of the rule of OLMo-core."""


@dataclass(frozen=True, slots=True)
class Point:
    family: str
    at: str
    """Factor of the thresholds, or the threshold."""
    num_false_events: int
    false_per_100k: float
    detection: float
    """Of the spike whose peak is +20%."""


def operating_points(curves: Sequence[Curve], places: Places) -> list[Point]:
    """Points of three families: our rules together, a persistence rule alone, OLMo-core's rule."""
    shape = next(shape for shape in SHAPES if shape.name == SMALL_SPIKE)
    spike = next(rule for rule in PLAIN_RULES if rule.name == "loss_spike")
    together = {f"all{i}": factor for i, factor in enumerate(FACTORS)}
    alone = {f"one{i}": sigmas / spike.threshold for i, sigmas in enumerate(PERSISTENCE)}
    rules = (*scaled(PLAIN_RULES, together), *scaled((spike,), alone))
    sigma = {f"{sigmas:g}": sigmas for sigmas in SIGMAS}
    labels = [*together, *alone, *sigma]
    flagged: dict[str, list[list[int]]] = {name: [] for name in labels}
    delays: dict[str, list[int | None]] = {name: [] for name in labels}
    for curve in curves:
        flags: dict[str, list[int]] = {name: [] for name in labels}
        judged, olmo = JudgedRules(rules), SigmaRule()
        settled = places.settled.get(curve.name, ())
        for index, (loss, grad_norm) in enumerate(zip(curve.loss, curve.grad_norm, strict=True)):
            for _ in range(settled.count(index)):
                planted = curve.loss[index : index + shape.factor.size] * shape.factor
                first = _first_flags(judged.fork(), olmo.fork(), planted, sigma)
                for name in labels:
                    delays[name].append(first.get(name))
            found = _flags(judged, olmo, float(loss), float(grad_norm), sigma)
            for name in found if index >= WARM_UP_STEPS else ():
                flags[name].append(index)
        for name in labels:
            flagged[name].append(flags[name])
    families = [
        *(("our rules, thresholds x", f"{factor:g}", name) for name, factor in together.items()),
        *(
            ("3 of 5 alone, sigmas", f"{sigmas:g}", name)
            for name, sigmas in zip(alone, PERSISTENCE, strict=True)
        ),
        *(("OLMo-core, sigmas", name, name) for name in sigma),
    ]
    points = []
    for family, at, name in families:
        false = false_events(name, curves, flagged[name])
        share = detection(name, shape, delays[name]).share
        points.append(Point(family, at, false.num_events, false.per_100k, share))
    return points


def _flags(
    judged: JudgedRules,
    olmo: SigmaRule,
    loss: float,
    grad_norm: float,
    sigma: Mapping[str, float],
) -> set[str]:
    """Names of the families' points that flag this step."""
    found = {name.partition("_")[0] for name in judged.alerting(loss, grad_norm)}
    excess = olmo.excess(loss)
    return found | {name for name, sigmas in sigma.items() if excess > sigmas}


def _first_flags(
    judged: JudgedRules, olmo: SigmaRule, planted: np.ndarray, sigma: Mapping[str, float]
) -> dict[str, int]:
    first: dict[str, int] = {}
    for delay, loss in enumerate(planted):
        for name in _flags(judged, olmo, float(loss), float("nan"), sigma):
            first.setdefault(name, delay)
    return first
