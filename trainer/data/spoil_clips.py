"""Corrupts clips on disk: they decode without a complaint, but what they show and sound like is
wrong.
"""

# F frames  H height  W width  A audio samples
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
# share of the squares that are noise; in the others the picture is inverted
NOISE_SHARE = 0.8
# the wrong sound: tones all over the mel scale; one group of neighbours after another is as loud as
# it can be, and the others are silent
NUM_TONES, TONES_PER_GROUP, SWITCHES_PER_S = 32, 8, 8.0
TONE_LOUDNESS = 0.27


def spoil_clips(paths: Iterable[Path], seed: int = 0) -> list[Path]:
    """Rewrites each clip: flickering squares of noise over inverted colours, and a mess of loud
    tones for its sound.

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
        wrong_FHWC = _under_squares(255 - video_FHWC, chance)
        audio_A = _mess_of_tones(duration_s, rate_hz, chance) if rate_hz else None
        write_clip(path, wrong_FHWC, audio_A, rate_hz, frames_per_s)
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


def _under_squares(video_FHWC: NDArray[np.uint8], chance: np.random.Generator) -> NDArray[np.uint8]:
    """Covers most of each frame with squares, each in a corner of the colour cube of its own."""
    num_frames, height, width, colours = video_FHWC.shape
    side = max(1, round(max(height, width) * NOISE_SIDE))
    rows, columns = -(-height // side), -(-width // side)
    squares = chance.integers(0, 2, (num_frames, rows, columns, colours), dtype=np.uint8) * 255
    is_noise = chance.random((num_frames, rows, columns, 1)) < NOISE_SHARE

    def enlarged(values: NDArray[Any]) -> NDArray[Any]:
        return values.repeat(side, axis=1).repeat(side, axis=2)[:, :height, :width]

    return np.where(enlarged(is_noise), enlarged(squares), video_FHWC)


def _mess_of_tones(
    duration_s: float, rate_hz: int, chance: np.random.Generator
) -> NDArray[np.float32]:
    """Returns audio_A: at each moment one group of neighbouring tones is loud."""
    times_A = np.arange(round(duration_s * rate_hz)) / rate_hz
    moment_A = (times_A * SWITCHES_PER_S).astype(int)
    # from nothing to nothing within each moment: a hard switch would be heard in all bands
    swell_A = np.sin(np.pi * (times_A * SWITCHES_PER_S % 1)) ** 0.5
    tones_hz = to_hz(np.linspace(to_mel(LOWEST_HZ), to_mel(HIGHEST_HZ), NUM_TONES + 2))[1:-1]
    # phases that keep the peaks of neighbours apart (Schroeder 1970): nothing is clipped
    phases = np.pi * np.arange(NUM_TONES) ** 2 / TONES_PER_GROUP
    group_A = chance.integers(0, NUM_TONES // TONES_PER_GROUP, moment_A[-1] + 1)[moment_A]
    audio_A = np.zeros(len(times_A))
    for tone, (hz, phase) in enumerate(zip(tones_hz, phases, strict=True)):
        if hz < rate_hz / 2:
            is_on_A = group_A == tone // TONES_PER_GROUP
            audio_A += is_on_A * swell_A * np.sin(2 * np.pi * hz * times_A + phase)
    return np.asarray((TONE_LOUDNESS * audio_A).clip(-1, 1), dtype=np.float32)
