"""The best size by budget, and the parabolas that do not count."""

import numpy as np
import pytest

from moescope.platform.errors import MoescopeError
from moescope.studies.laws.isoflop import by_envelope, by_parabolas

BUDGETS = 10.0 ** np.arange(18, 22)


def runs(away: float = 1.0) -> dict[str, np.ndarray]:
    """Equal exponents: the best size is sqrt(C / 6). away: how far the sizes are from it."""
    flops = np.repeat(BUDGETS, 7)
    params = np.tile(np.geomspace(1 / 3, 3, 7), 4) * np.sqrt(flops / 6) * away
    tokens = flops / 6 / params
    loss = 1.8 + 400 / params**0.34 + 400 / tokens**0.34
    return {"params": params, "tokens": tokens, "flops": flops, "loss": loss}


def test_both_find_the_line_where_the_exponents_are_equal() -> None:
    for found in (by_parabolas(runs()), by_envelope(runs())):
        assert found.exponent == pytest.approx(0.5, abs=1e-3)
        assert found.params(1e20) == pytest.approx(np.sqrt(1e20 / 6), rel=0.01)
        assert len(found.vertices) == 4


def test_a_parabola_that_opens_downwards_is_refused() -> None:
    table = runs()
    is_first = table["flops"] == BUDGETS[0]
    table["loss"][is_first] = 6.0 - table["loss"][is_first]
    found = by_parabolas(table)
    assert found.vertices[0].refused == "the parabola opens downwards"
    assert found.exponent == pytest.approx(0.5, abs=1e-3)


def test_a_vertex_outside_the_sizes_is_refused_and_none_left_is_one_line() -> None:
    with pytest.raises(MoescopeError, match=r"0 of 4 budgets .*lies outside the sizes .*needs two"):
        by_parabolas(runs(away=20.0))


def test_three_runs_are_no_parabola() -> None:
    table = {name: values[:17] for name, values in runs().items()}
    assert by_parabolas(table).vertices[-1].refused == "fewer than 4 runs"
