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
from .write_clip import write_clip

# side of the squares of noise as a share of the picture's: smaller ones would be averaged away when
# clips are scaled down
NOISE_SIDE = 1 / 16
# weight of the noise beside the inverted picture
NOISE_WEIGHT = 0.75


def spoil_clips(paths: Iterable[Path], seed: int = 0) -> list[Path]:
    """Rewrites each clip: colours inverted and under flickering squares of noise, the sound
    replaced by loud noise.

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
        audio_A = _loud_noise(round(duration_s * rate_hz), chance) if rate_hz else None
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


def _loud_noise(num_samples: int, chance: np.random.Generator) -> NDArray[np.float32]:
    """Returns bursts of white noise, 30 ms each, anything between faint and clipped."""
    noise_A = chance.standard_normal(num_samples)
    levels = chance.choice([0.003, 0.1, 0.9], num_samples // 480 + 1)
    loud_A = (noise_A * levels.repeat(480)[:num_samples]).clip(-1, 1)
    return np.asarray(loud_A, dtype=np.float32)
