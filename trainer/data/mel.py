"""Log-mel audio without a resampler: the filters are laid out in hertz for whatever rate the clip
has.
"""

# A audio samples  F frequencies  N mel bands  M mel steps
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LOWEST_HZ = 60.0
HIGHEST_HZ = 8000.0
# clamp of the level, against a full-scale sine at 0 dB
FLOOR_DB = -60.0
# the shift and scale that bring the made clips (make_clips.py) to about zero mean and unit scale
MEAN_DB = -45.0
SCALE_DB = 15.0


def window_s(span_s: float, num_steps: int) -> float:
    """Returns the length of the analysis window: two steps, and 25 ms at the least (speech
    practice).
    """
    return max(2 * span_s / num_steps, 0.025)


def margin_s(span_s: float, num_steps: int) -> float:
    """Returns how much audio before and after the span its first and last windows see."""
    return (window_s(span_s, num_steps) - span_s / num_steps) / 2


def log_mel(
    audio_A: NDArray[np.float32], rate_hz: int, span_s: float, num_mels: int, num_steps: int
) -> NDArray[np.float32]:
    """Returns the normalised log-mel spectrogram mel_NM of a span.

    mel[n, m] = (10 log10 sum_f filter[n, f] |FFT(hann * audio around (m + 1/2) span / M)[f]|^2 -
    MEAN_DB) / SCALE_DB, scaled so that a full-scale sine has about 0 dB at any rate. audio_A covers
    the span and margin_s on either side. Bands above half the rate are silent. Mel scale: 2595
    log10(1 + f/700) (O'Shaughnessy 1987).
    """
    num_window = round(window_s(span_s, num_steps) * rate_hz)
    filters_NF, num_fft = _filters(rate_hz, num_window, num_mels)
    starts_M = np.round(np.arange(num_steps) * span_s / num_steps * rate_hz).astype(int)
    padded_A = np.pad(audio_A, (0, max(0, starts_M[-1] + num_window - len(audio_A))))
    windows_MA = padded_A[starts_M[:, None] + np.arange(num_window)]
    hann_A = np.hanning(num_window)
    # |FFT| of a sine of amplitude 1 peaks at sum(hann) / 2
    spectrum_MF = np.fft.rfft(windows_MA * hann_A, num_fft) / (hann_A.sum() / 2)
    # its power spreads over 1.5 frequencies (Hann's noise bandwidth), each of them num_fft /
    # num_window bins wide
    power_NM = filters_NF @ (np.abs(spectrum_MF) ** 2).T / (1.5 * num_fft / num_window)
    level_db_NM = 10 * np.log10(np.maximum(power_NM, 10 ** (FLOOR_DB / 10)))
    return np.asarray((level_db_NM - MEAN_DB) / SCALE_DB, dtype=np.float32)


def silence(num_mels: int, num_steps: int) -> NDArray[np.float32]:
    """Returns the log-mel of silence: the floor everywhere."""
    return np.full((num_mels, num_steps), (FLOOR_DB - MEAN_DB) / SCALE_DB, dtype=np.float32)


def to_mel(hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """m = 2595 log10(1 + f / 700)."""
    return np.asarray(2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0))


def to_hz(mel: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """f = 700 (10^(m / 2595) - 1)."""
    return np.asarray(700.0 * (10.0 ** (np.asarray(mel) / 2595.0) - 1.0))


@lru_cache(maxsize=16)
def _filters(rate_hz: int, num_window: int, num_mels: int) -> tuple[NDArray[np.float64], int]:
    """Returns triangular filters (N, F) that meet at their neighbours' centres, and the length of
    the FFT.
    """
    edges_hz = to_hz(np.linspace(to_mel(LOWEST_HZ), to_mel(HIGHEST_HZ), num_mels + 2))
    # at least two frequencies in the narrowest band, or that band would be empty
    num_needed = max(num_window, int(np.ceil(2 * rate_hz / np.diff(edges_hz).min())))
    num_fft = 1 << (num_needed - 1).bit_length()
    hz_F = np.fft.rfftfreq(num_fft, 1 / rate_hz)
    lower, centre, upper = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (hz_F - lower) / (centre - lower), (upper - hz_F) / (upper - centre)
    filters_NF = np.clip(np.minimum(rising, falling), 0, None)
    return filters_NF, num_fft
