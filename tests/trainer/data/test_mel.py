"""Log-mel values mean the same at every sample rate."""

import numpy as np
import pytest
from numpy.typing import NDArray

from moescope.trainer.data import mel

FULL_SCALE = (0.0 - mel.MEAN_DB) / mel.SCALE_DB
FLOOR = (mel.FLOOR_DB - mel.MEAN_DB) / mel.SCALE_DB


def tone(hz: float, rate_hz: int, loudness: float = 1.0, steps: int = 32) -> NDArray[np.float32]:
    margin = mel.margin_s(1.0, steps)
    times = np.arange(round((1 + 2 * margin) * rate_hz)) / rate_hz
    return (loudness * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def centre_hz(band: int, num_mels: int) -> float:
    edges = np.linspace(mel.to_mel(mel.LOWEST_HZ), mel.to_mel(mel.HIGHEST_HZ), num_mels + 2)
    return float(mel.to_hz(edges[band + 1]))


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("band", [3, 12, 19])
def test_a_full_scale_tone_in_the_middle_of_a_band_has_0_db_at_any_rate(
    rate_hz: int, band: int
) -> None:
    values_NM = mel.log_mel(tone(centre_hz(band, 32), rate_hz), rate_hz, 1.0, 32, 32)
    assert values_NM.shape == (32, 32)
    assert (values_NM.argmax(axis=0) == band).all()
    # 1 dB: the triangle's slope takes some of the tone's width
    assert values_NM[band] == pytest.approx(np.full(32, FULL_SCALE), abs=1.0 / mel.SCALE_DB)


def test_a_tenth_of_the_loudness_is_20_db_less() -> None:
    loud, soft = (mel.log_mel(tone(1000, 16000, a), 16000, 1.0, 32, 32) for a in (0.8, 0.08))
    assert (loud - soft)[loud > 1].mean() == pytest.approx(20 / mel.SCALE_DB, rel=0.02)


def test_silence_and_what_lies_above_half_the_rate_are_at_the_floor() -> None:
    nothing = mel.log_mel(np.zeros(20000, np.float32), 16000, 1.0, 32, 32)
    assert (nothing == np.float32(FLOOR)).all()
    assert np.array_equal(nothing, mel.silence(32, 32))
    slow_NM = mel.log_mel(tone(1000, 8000), 8000, 1.0, 32, 32)
    assert (slow_NM[-4:] == np.float32(FLOOR)).all()


@pytest.mark.parametrize(("num_mels", "num_steps"), [(8, 8), (32, 32), (80, 100), (128, 16)])
def test_no_band_is_deaf(num_mels: int, num_steps: int) -> None:
    noise = np.random.default_rng(0).standard_normal(60000).astype(np.float32) * 0.3
    values_NM = mel.log_mel(noise, 48000, 1.0, num_mels, num_steps)
    assert values_NM.shape == (num_mels, num_steps)
    assert values_NM.mean(axis=1).min() > FLOOR + 0.5


def test_a_tone_that_begins_in_the_middle_begins_in_the_middle_step() -> None:
    audio = tone(1000, 16000)
    audio[: len(audio) // 2] = 0
    strongest_M = mel.log_mel(audio, 16000, 1.0, 32, 32).max(axis=0)
    assert (strongest_M[:15] == np.float32(FLOOR)).all()
    assert (strongest_M[17:] > 2).all()
