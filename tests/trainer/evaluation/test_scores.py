"""Scores of clips and of classified frames, against numbers that can be checked by hand."""

import numpy as np
import pytest
import torch

from moescope.trainer.evaluation.scores import (
    caption_cosine,
    inception_score,
    neighbour_cosine,
    stillness,
)


def test_stillness_is_one_less_the_mean_change_of_a_pixel() -> None:
    still = torch.full((3, 4, 2, 2), 200, dtype=torch.uint8)
    flashing = torch.zeros(3, 4, 2, 2, dtype=torch.uint8)
    flashing[:, 1::2] = 255
    one_pixel = torch.zeros(3, 4, 2, 2, dtype=torch.uint8)
    # of 12 values one changes by 51 between two of four frames: 51 / 255 / 12 / 3
    one_pixel[0, 3, 0, 0] = 51
    found = stillness(torch.stack([still, flashing, one_pixel]))
    assert found == pytest.approx([1.0, 0.0, 1 - 0.2 / 36], abs=1e-7)


def test_cosines_are_those_of_neighbours_and_of_captions() -> None:
    east, north, west = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    unit_BFP = np.array([[east, east, north], [east, west, east]])
    assert neighbour_cosine(unit_BFP) == pytest.approx([0.5, -1.0])
    assert caption_cosine(unit_BFP, np.array([east, north])) == pytest.approx([2 / 3, 0.0])


def test_the_inception_score_is_the_number_of_classes_that_are_told_apart() -> None:
    certain = np.repeat(np.eye(4), 3, axis=0)
    assert inception_score(certain) == pytest.approx(4.0)
    assert inception_score(np.full((12, 4), 0.25)) == pytest.approx(1.0)
