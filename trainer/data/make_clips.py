"""Writes a small corpus of real video files in which picture, sound and caption tell each other's
story.

A shape in one of eight colours moves over a background of another colour. Its height is the pitch
of a tone, its place from left to right the tone's loudness, and the caption names both colours, the
shape and where it goes. What leaves at one edge comes in at the opposite one.
"""

# F frames  H height  W width  A audio samples
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...platform.errors import MoescopeError
from .captions import CAPTION_FILE
from .chance import generator
from .mel import HIGHEST_HZ, to_hz, to_mel
from .write_clip import write_clip

# corners of the colour cube, so that a wrong guess is far off; words of one length, so that they
# stand at fixed places
COLOURS = {
    "blue": (20, 20, 245),
    "gold": (250, 215, 10),
    "pink": (250, 20, 235),
    "lime": (20, 245, 20),
    "aqua": (10, 235, 250),
    "ruby": (245, 15, 25),
    "snow": (250, 250, 250),
    "coal": (8, 8, 8),
}
SHAPES = ("ball", "ring", "cube", "plus")
DIRECTIONS = {"up": (0.0, -1.0), "down": (0.0, 1.0), "left": (-1.0, 0.0), "right": (1.0, 0.0)}
SAMPLE_RATE_HZ = 16_000
LOWEST_TONE_HZ, HIGHEST_TONE_HZ = 150.0, 5000.0
QUIETEST, LOUDEST = 0.03, 0.3
# a bright tone, whose overtones show its pitch in many bands
OVERTONES = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.3, 0.3)


@dataclass(frozen=True, slots=True)
class Scene:
    """What one clip shows; lengths are shares of the picture's side, times are seconds."""

    background: str
    colour: str
    shape: str
    direction: str
    radius: float
    sides_per_s: float
    start_x: float
    start_y: float

    @property
    def caption(self) -> str:
        return f"{self.background} behind a {self.colour} {self.shape} going {self.direction}"

    def place(self, time_s: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns (x from left, y from top) of the shape's centre, each in [0, 1)."""
        right, down = DIRECTIONS[self.direction]
        way = self.sides_per_s * time_s
        return (self.start_x + right * way) % 1.0, (self.start_y + down * way) % 1.0


def make_clips(
    folder: Path | str,
    num_clips: int,
    seed: int = 0,
    *,
    size: int = 64,
    frames_per_s: float = 16.0,
    duration_s: float = 2.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Writes num_clips H.264 + AAC clips and a captions.jsonl; the same seed writes the same
    scenes.

    size: pixels per side. progress is told (written, num_clips) after each clip. Raises
    MoescopeError where the folder holds something already or cannot be written.
    """
    root = Path(folder).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise MoescopeError(f"{root} is not empty: name a new folder for the clips")
    except OSError as error:
        raise MoescopeError(f"cannot write clips to {root}: {error.strerror}") from error
    paths, lines = [], []
    for number in range(num_clips):
        name = clip_name(number)
        scene = scene_of(seed, name)
        paths.append(root / name)
        write_clip(
            paths[-1],
            paint(scene, size, frames_per_s, duration_s),
            play(scene, duration_s),
            SAMPLE_RATE_HZ,
            frames_per_s,
        )
        lines.append(json.dumps({"file": name, "caption": scene.caption}))
        if progress is not None:
            progress(number + 1, num_clips)
    (root / CAPTION_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def clip_name(number: int) -> str:
    """Returns the name of the number-th clip of a folder."""
    return f"clip-{number:04d}.mp4"


def scene_of(seed: int, name: str) -> Scene:
    """Draws the scene of a clip: it depends on seed and name alone."""
    chance = generator(seed, name, 0, "scene")
    background, colour = chance.choice(list(COLOURS), size=2, replace=False)
    return Scene(
        background=str(background),
        colour=str(colour),
        shape=str(chance.choice(SHAPES)),
        direction=str(chance.choice(list(DIRECTIONS))),
        radius=float(chance.uniform(0.24, 0.32)),
        sides_per_s=float(chance.uniform(0.3, 0.6)),
        start_x=float(chance.random()),
        start_y=float(chance.random()),
    )


def paint(scene: Scene, size: int, frames_per_s: float, duration_s: float) -> NDArray[np.uint8]:
    """Returns the scene's pictures, video_FHWC."""
    times_F = np.arange(round(duration_s * frames_per_s)) / frames_per_s
    x_F, y_F = scene.place(times_F)
    sides = (np.arange(size) + 0.5) / size
    # distance to the centre the short way round, in -1/2 to 1/2
    dx_F1W = (sides[None, None, :] - x_F[:, None, None] + 0.5) % 1.0 - 0.5
    dy_FH1 = (sides[None, :, None] - y_F[:, None, None] + 0.5) % 1.0 - 0.5
    # one pixel of blend at the edge
    depth_FHW = _depth(scene, dx_F1W.astype(np.float32), dy_FH1.astype(np.float32))
    inside_FHW = np.clip(depth_FHW * size + 0.5, 0.0, 1.0)
    front, back = (np.array(COLOURS[name], np.float32) for name in (scene.colour, scene.background))
    return (back + inside_FHW[..., None] * (front - back)).round().astype(np.uint8)


def play(scene: Scene, duration_s: float) -> NDArray[np.float32]:
    """Returns the scene's sound, audio_A: height is pitch (in mel, lowest at the bottom), left to
    right is loudness.
    """
    times_A = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    x_A, y_A = scene.place(times_A)
    lowest, highest = to_mel(LOWEST_TONE_HZ), to_mel(HIGHEST_TONE_HZ)
    tone_hz_A = to_hz(lowest + (1.0 - y_A) * (highest - lowest))
    phase_A = 2 * np.pi * np.cumsum(tone_hz_A) / SAMPLE_RATE_HZ
    audio_A = np.zeros_like(phase_A)
    for overtone, loudness in enumerate(OVERTONES, start=1):
        is_heard_A = overtone * tone_hz_A < HIGHEST_HZ
        audio_A += loudness * is_heard_A * np.sin(overtone * phase_A)
    loudness_A = QUIETEST * (LOUDEST / QUIETEST) ** x_A
    return (loudness_A * audio_A).astype(np.float32)


def _depth(scene: Scene, dx: NDArray[np.float32], dy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns how far inside the shape a point lies (negative: outside), as a share of the side."""
    radius = np.float32(scene.radius)
    if scene.shape == "cube":
        return np.asarray(0.9 * radius - np.maximum(np.abs(dx), np.abs(dy)))
    if scene.shape == "plus":
        arms = np.minimum(np.abs(dx), np.abs(dy)) - 0.4 * radius
        return np.asarray(-np.maximum(arms, np.maximum(np.abs(dx), np.abs(dy)) - radius))
    distance = np.sqrt(dx**2 + dy**2)
    if scene.shape == "ring":
        return np.asarray(0.3 * radius - np.abs(distance - 0.75 * radius))
    return np.asarray(radius - distance)
