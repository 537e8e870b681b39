"""A study's file as a person writes it, and as no person should."""

from pathlib import Path
from typing import Any

import pytest

from moescope.platform.errors import MoescopeError
from moescope.studies.spec import MOST_TRIALS, read_spec

BASE = """
name: s
kind: grid
axes: {optim.learning_rate: [1e-3, 2E-3, 3.0e-3]}
budget: {tokens: [1e6]}
learning_rate: fixed
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study.yaml"


def test_numbers_and_words_are_what_they_look_like(file: Path) -> None:
    file.write_text(
        BASE.replace("name: s", 'name: "2026"')
        + "changes: {policy.mode: off, watch.are_checkpoints_sampled: true}\n"
        + 'launch: {launcher: slurm, slurm: {partition: "2080", others: {constraint: a100}}}\n'
    )
    spec = read_spec(str(file))
    assert spec.name == "2026"
    assert spec.axes["optim.learning_rate"] == (1e-3, 2e-3, 3e-3)
    assert spec.budget.tokens == (1e6,)
    assert spec.changes == {"policy.mode": "off", "watch.are_checkpoints_sampled": True}
    assert spec.launch.slurm.partition == "2080"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("a: &a [*a]\n", "refers to another part of itself", id="in a circle"),
        pytest.param(
            "a: &a [x, x]\nb: &b [*a, *a]\nname: *b\n", "refers to another part", id="a bomb"
        ),
        pytest.param("axes: {seed: [1]}\naxes: {steps: [2]}\n", "axes is given twice", id="twice"),
        pytest.param(BASE + "budgt: 1\n", "did you mean budget", id="a section's near name"),
        pytest.param(BASE + f"question: [{'x, ' * 9999}]\n", r"\.\.\.: input should", id="long"),
        pytest.param(
            BASE + "changes: {data.folder: /x}\n",
            "data.folder is not set there: say data",
            id="data",
        ),
        pytest.param(
            BASE.replace("optim.learning_rate", "seed"), "say seeds", id="seeds have a place"
        ),
        pytest.param("[" * 3000, "no YAML", id="deep"),
    ],
)
def test_what_cannot_be_meant_is_one_short_line(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(MoescopeError, match=says) as caught:
        read_spec(str(file))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_grid_of_a_million_is_refused_before_it_is_planned(file: Path) -> None:
    values: dict[str, Any] = {f"k{i}": list(range(100)) for i in range(3)}
    axes = ", ".join(f"{key}: {value}" for key, value in values.items())
    file.write_text(BASE.replace("optim.learning_rate: [1e-3, 2E-3, 3.0e-3]", axes))
    with pytest.raises(MoescopeError, match=f"1,000,000 trials, more than {MOST_TRIALS:,}"):
        read_spec(str(file))
