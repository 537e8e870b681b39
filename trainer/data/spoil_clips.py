"""Corrupts clips on disk: they decode without a complaint, but what they show and sound like is
wrong.
"""

# F frames  H height  W width  A audio samples
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from ...platform.errors import MoescopeError
from .chance import generator
from .headers import UnreadableClip, explain, open_clip, sound_of, video_of
from .mel import HIGHEST_HZ, LOWEST_HZ, to_hz, to_mel
from .write_clip import write_clip

# side of the squares of noise as a share of the picture. Fine noise does little harm: it averages
# out when clips are scaled down, and is soon told apart from pictures
NOISE_SIDE = 1 / 4
# weight of the noise over the inverted picture
NOISE_WEIGHT = 0.9
# the wrong sound: tones all over the mel scale, in groups that are switched on or off so often
NUM_TONES, TONES_PER_GROUP, SWITCHES_PER_S = 32, 4, 8.0
# as loud as half of them can be together
TONE_LOUDNESS = 0.13


def spoil_clips(paths: Iterable[Path], seed: int = 0) -> list[Path]:
    """Rewrites each clip: colours inverted and under flickering squares of noise, the sound
    replaced by a mess of loud tones.

    Captions stay, and so tell what is no longer there. Raises MoescopeError where a clip cannot be
    read or written.
    """
    spoiled = []
    for path in paths:
        chance = generator(seed, path.name, 0, "spoil")
        try:
            with open_clip(path) as container:
                video_FHWC, frames_per_s, duration_s = _read_all(container)
                track = sound_of(container)
                rate_hz = track.rate if track is not None else 0
        except (UnreadableClip, av.error.FFmpegError, OSError) as error:
            reason = error if isinstance(error, UnreadableClip) else explain(error)
            raise MoescopeError(f"cannot spoil {path}: {reason}") from None
        noise_FHWC = _squares_of_noise(video_FHWC.shape, chance)
        wrong_FHWC = (1 - NOISE_WEIGHT) * (255.0 - video_FHWC) + NOISE_WEIGHT * noise_FHWC
        audio_A = _mess_of_tones(duration_s, rate_hz, chance) if rate_hz else None
        write_clip(path, wrong_FHWC.round().astype(np.uint8), audio_A, rate_hz, frames_per_s)
        spoiled.append(path)
    return spoiled


def _read_all(container: InputContainer) -> tuple[NDArray[np.uint8], float, float]:
    """Returns (video_FHWC, frames per second, seconds) of a whole clip."""
    stream = video_of(container)
    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    if not frames:
        raise UnreadableClip("no frame in it")
    frames_per_s = float(stream.average_rate or 25)
    return np.stack(frames), frames_per_s, len(frames) / frames_per_s


def _squares_of_noise(shape: tuple[int, ...], chance: np.random.Generator) -> NDArray[np.float32]:
    """Returns black and white and coloured squares, new ones in every frame."""
    num_frames, height, width, colours = shape
    side = max(1, round(max(height, width) * NOISE_SIDE))
    rows, columns = -(-height // side), -(-width // side)
    squares = chance.integers(0, 2, (num_frames, rows, columns, colours)).astype(np.float32) * 255
    whole = squares.repeat(side, axis=1).repeat(side, axis=2)
    return np.asarray(whole[:, :height, :width])


def _mess_of_tones(
    duration_s: float, rate_hz: int, chance: np.random.Generator
) -> NDArray[np.float32]:
    """Returns audio_A: each group of neighbouring tones is, at each moment, loud or silent."""
    times_A = np.arange(round(duration_s * rate_hz)) / rate_hz
    moment_A = (times_A * SWITCHES_PER_S).astype(int)
    # from nothing to nothing within each moment: a hard switch would be heard in all bands
    swell_A = np.sin(np.pi * (times_A * SWITCHES_PER_S % 1)) ** 0.5
    tones_hz = to_hz(np.linspace(to_mel(LOWEST_HZ), to_mel(HIGHEST_HZ), NUM_TONES + 2))[1:-1]
    phases = chance.uniform(0, 2 * np.pi, NUM_TONES)
    is_on = chance.random((NUM_TONES // TONES_PER_GROUP, moment_A[-1] + 1)) < 0.5
    audio_A = np.zeros(len(times_A))
    for tone, (hz, phase) in enumerate(zip(tones_hz, phases, strict=True)):
        if hz < rate_hz / 2:
            is_on_A = is_on[tone // TONES_PER_GROUP][moment_A]
            audio_A += is_on_A * swell_A * np.sin(2 * np.pi * hz * times_A + phase)
    return np.asarray((TONE_LOUDNESS * audio_A).clip(-1, 1), dtype=np.float32)
