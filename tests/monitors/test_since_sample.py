import numpy as np
import pytest

from moescope.monitors.since_sample import SinceSample, noise_bins
from moescope.platform import catalogue


def step(
    loss: list[list[float]], sigma: list[list[float]], tokens: list[list[int]] | None = None
) -> dict[str, np.ndarray]:
    values = {
        catalogue.LOSS_PER_SAMPLE: np.array(loss, np.float32),
        catalogue.LOSS_SIGMA: np.array(sigma, np.float32),
    }
    if tokens is not None:
        values[catalogue.EXPERT_TOKENS] = np.array(tokens, np.float32)
    return values


def test_noise_levels_fall_into_eight_parts_of_equal_width() -> None:
    assert noise_bins(np.array([0.0, 0.124, 0.126, 0.99, 1.0])).tolist() == [0, 0, 1, 7, 7]


def test_losses_are_averaged_by_modality_and_noise_level_until_they_are_read() -> None:
    since = SinceSample(has_bias=False)
    since.take(step([[1.0, 4.0], [9.0, 0.0]], [[0.1, 0.9], [0.1, 1.0]]))
    since.take(step([[3.0, np.nan], [5.0, 2.0]], [[0.1, 0.9], [0.1, 1.0]]))
    loss_MQ = since.read()[catalogue.LOSS_NOISE_BIN]
    assert loss_MQ.shape == (2, catalogue.NUM_NOISE_BINS)
    assert loss_MQ[0, [0, 7]].tolist() == [2.0, 4.0]
    # the audio of a silent clip is 0 and does not count
    assert loss_MQ[1, [0, 7]].tolist() == [7.0, 2.0]
    assert loss_MQ[:, 1:7].tolist() == np.zeros((2, 6)).tolist()


def test_a_part_that_no_sample_fell_into_keeps_its_value() -> None:
    since = SinceSample(has_bias=False)
    since.take(step([[1.0]], [[0.1]]))
    since.read()
    since.take(step([[5.0]], [[0.9]]))
    loss_MQ = since.read()[catalogue.LOSS_NOISE_BIN]
    assert loss_MQ[0, [0, 7]].tolist() == [1.0, 5.0]


def test_a_bias_turns_round_when_its_expert_comes_from_above_the_mean_to_below_it() -> None:
    since = SinceSample(has_bias=True)
    loss, sigma = [[1.0]], [[0.5]]
    # experts 0 and 1 change sides at the second step, none at the third; the fourth is at the mean
    for tokens in ([[9, 1, 8, 2]], [[1, 9, 8, 2]], [[1, 9, 8, 2]], [[5, 5, 5, 5]]):
        since.take(step(loss, sigma, tokens))
    assert since.read()[catalogue.BIAS_FLIP_RATE] == pytest.approx(np.array([0.5 / 3]))
    assert catalogue.BIAS_FLIP_RATE not in since.read()


def test_routers_without_a_bias_have_no_flip_rate() -> None:
    since = SinceSample(has_bias=False)
    since.take(step([[1.0]], [[0.5]], [[1, 9]]))
    since.take(step([[1.0]], [[0.5]], [[9, 1]]))
    assert catalogue.BIAS_FLIP_RATE not in since.read()
