"""Colours that can be told apart on both backgrounds, and by colour-blind people."""

import itertools
import tomllib
from pathlib import Path

import numpy as np
import pytest

import moescope.dashboard
from moescope.dashboard.theme import (
    BACKGROUNDS,
    CHECKPOINTS,
    LAMPS,
    LOAD_SCALE,
    SEVERITIES,
)
from moescope.platform.palette import RAMP, SERIES, ramp

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB
_BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
# Ottosson (2020), "A perceptual color space for image processing"
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _luminance(colour: str) -> float:
    return float(_linear(colour) @ [0.2126, 0.7152, 0.0722])


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _oklab(linear: np.ndarray) -> np.ndarray:
    seen: np.ndarray = _TO_OKLAB @ np.cbrt(_TO_CONES @ np.clip(linear, 0, 1))
    return seen


_LINES = {*SERIES, *RAMP, *(look.line for look in (*SEVERITIES.values(), *CHECKPOINTS.values()))}


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_line_stands_out_from_light_and_dark(background: str) -> None:
    # 3:1 is what WCAG 2.1 asks of graphics (1.4.11)
    weak = {c: _contrast(c, background) for c in _LINES if _contrast(c, background) < 3}
    assert weak == {}


@pytest.mark.parametrize("blindness", _BLINDNESS)
def test_lines_of_one_chart_can_be_told_apart(blindness: str) -> None:
    seen = {c: _oklab(_BLINDNESS[blindness] @ _linear(c)) for c in SERIES}
    # 0.05 in Oklab is some two just-noticeable differences; dash and hover text come on top
    pairs = itertools.combinations(SERIES, 2)
    near = [(a, b) for a, b in pairs if np.linalg.norm(seen[a] - seen[b]) < 0.05]
    assert near == []


@pytest.mark.parametrize("blindness", _BLINDNESS)
def test_idle_fair_and_overloaded_experts_can_be_told_apart(blindness: str) -> None:
    ends = [LOAD_SCALE[i][1] for i in (0, 2, 4)]
    seen = [_oklab(_BLINDNESS[blindness] @ _linear(c)) for c in ends]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.12


def test_no_state_is_told_by_colour_alone() -> None:
    for looks in (LAMPS.values(), SEVERITIES.values(), CHECKPOINTS.values()):
        assert len({look.word for look in looks}) == len(looks)
        assert len({look.icon for look in looks}) == len(looks)
    for looks in (SEVERITIES.values(), CHECKPOINTS.values()):
        assert len({look.symbol for look in looks}) == len(looks)


@pytest.mark.parametrize("num_layers", [1, 2, 12, 48])
def test_every_layer_has_a_colour(num_layers: int) -> None:
    colours = ramp(num_layers)
    assert len(colours) == num_layers
    assert colours[0] == RAMP[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_white_can_be_read_on_the_primary_colour_and_that_on_the_ground(scheme: str) -> None:
    settings = Path(moescope.dashboard.__file__).with_name(".streamlit") / "config.toml"
    theme = tomllib.loads(settings.read_text())["theme"][scheme]
    # Streamlit writes white on it, as in what was chosen of a list, and writes with it
    assert _contrast(theme["primaryColor"], "#FFFFFF") > 3.9
    assert _contrast(theme["primaryColor"], theme["backgroundColor"]) > 4.5
