"""Sound from a log-mel: what generated audio sounds like."""

import numpy as np
from numpy.typing import NDArray

from .mel import FLOOR_DB, HIGHEST_HZ, LOWEST_HZ, MEAN_DB, SCALE_DB, to_hz, to_mel

SAMPLE_RATE_HZ = 16_000
CREST_DB = 6.0
"""Two neighbouring bands hear the same tone: each gives half of its amplitude."""

# N mel bands  M mel steps  A audio samples


def sound_of(mel_NM: NDArray[np.float32], span_s: float) -> NDArray[np.float32]:
    """Returns audio_A at SAMPLE_RATE_HZ: one sine per band at the band's centre, as loud as its
    level says.

    A mel has no phase, so tones come back as tones, and noise as a chord. Levels at the floor are
    silent. mel_NM: normalised, as `log_mel` returns it; span_s: the time it covers.
    """
    num_mels, num_steps = mel_NM.shape
    level_NM = np.clip(mel_NM.astype(np.float64) * SCALE_DB + MEAN_DB, FLOOR_DB, 0.0)
    amplitude_NM = np.where(level_NM > FLOOR_DB + 1, 10 ** ((level_NM - CREST_DB) / 20), 0.0)
    edges_hz = to_hz(np.linspace(to_mel(LOWEST_HZ), to_mel(HIGHEST_HZ), num_mels + 2))
    times_A = np.arange(round(span_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    middles_M = (np.arange(num_steps) + 0.5) * span_s / num_steps
    audio_A = np.zeros(len(times_A))
    for hz, amplitude_M in zip(edges_hz[1:-1], amplitude_NM, strict=True):
        audio_A += np.interp(times_A, middles_M, amplitude_M) * np.sin(2 * np.pi * hz * times_A)
    loudest = max(1.0, float(np.abs(audio_A).max(initial=0.0)))
    return np.asarray(audio_A / loudest, np.float32)
