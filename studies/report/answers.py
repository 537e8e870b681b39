"""What a study answers, by its kind."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from ...platform.records import Study
from .best_sizes import BestSizesAnswer, best_sizes
from .comparisons import Ablations, Grid, Seeds, ablations, grid, seeds
from .frontier import Frontier, frontier
from .law_answers import Laws, allowed_forms, laws_of
from .sensitivity import Sensitivity, sensitivities
from .spread import noise_of_seeds
from .stories import Story
from .table import ABLATION, coordinates, counted


class Answers(NamedTuple):
    """All that a study's trials say; what its kind does not ask for is None or empty."""

    kind: str
    noise_of_seeds: float | None
    """Standard deviation of log loss between runs that differ in their seed alone."""
    laws: Laws | None
    best_sizes: BestSizesAnswer | None
    ablations: Ablations | None
    sensitivities: tuple[Sensitivity, ...]
    seeds: Seeds | None
    grid: Grid | None
    frontier: Frontier


def answers_of(
    study: Study, frame: pd.DataFrame, stories: Mapping[str, Story], *, seed: int = 0
) -> Answers:
    """Answers a study from its table. stories: {key of a trial: what its run tells}."""
    kind = str(study.spec.get("kind", ""))
    rows = counted(frame)
    first_losses = {key: story.first_loss for key, story in stories.items()}
    is_of_sizes = kind in ("ladder", "isoflop") or (
        kind == "grid" and bool(study.spec.get("sizes"))
    )
    has_law = len(rows) > 0 and (
        kind in ("ladder", "isoflop") or (is_of_sizes and bool(allowed_forms(rows)))
    )
    return Answers(
        kind,
        noise_of_seeds(rows) if len(rows) else None,
        laws_of(rows, seed=seed) if has_law else None,
        best_sizes(rows, seed=seed) if kind == "isoflop" and len(rows) else None,
        ablations(rows) if kind == "ablation" and ABLATION in rows else None,
        tuple(sensitivities(frame, first_losses)) if kind == "sensitivity" and len(frame) else (),
        seeds(rows) if kind == "seeds" and len(rows) else None,
        grid(rows) if kind == "grid" and coordinates(rows) else None,
        frontier(frame, {key: story.grew_at for key, story in stories.items()}),
    )
