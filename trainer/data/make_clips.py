"""Writes a small corpus of real video files in which picture, sound and caption tell each other's
story.

A shape moves before a sky and a ground, in a light that beats. The higher the shape is, the higher
is the pitch of its sound; the brighter the light, the louder is all sound. Each ground has a drone.
The caption names the sky, the shape's colour, the shape and where it goes; its class is the sky.
"""

# F frames  H height  W width  A audio samples  V voices  T steps of the sound
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...platform.errors import MoescopeError
from .captions import CAPTION_FILE
from .chance import generator
from .mel import HIGHEST_HZ, LOWEST_HZ, to_hz, to_mel
from .write_clip import write_clip, write_picture

# saturated, so that a wrong guess is far off; no word is both a sky and a colour
SKIES = {
    "noon": (20, 40, 250),
    "dawn": (250, 205, 20),
    "haze": (250, 250, 250),
    "glow": (20, 240, 30),
    "dusk": (250, 30, 230),
    "fire": (250, 60, 15),
}
COLOURS = {"ruby": (200, 0, 40), "gold": (255, 200, 0), "teal": (0, 220, 220), "coal": (10, 10, 10)}
# from the lowest drone to the highest; the sound tells them, no caption does
GROUNDS = ((250, 250, 60), (30, 60, 250), (250, 40, 60), (30, 230, 160))
# share of the picture's height
GROUND_HEIGHT = 0.375
SHAPES = ("ball", "ring", "cube", "plus")
MOVES = {"rises": (0, 1), "falls": (0, -1), "goes left": (-1, 0), "goes right": (1, 0)}
# the light is thrown on or off this often; what comes next cannot be told from what was before
BEATS_PER_S = 4.0
DARKEST = 0.15
# loudness of the dark beats against the bright ones
QUIETEST_DB = -24.0
# blend at the shape's edge, as a share of the picture's side
SOFT_EDGE = 0.06
SAMPLE_RATE_HZ = 16_000
# loudness changes every millisecond
STEP_SAMPLES = 16
# one voice in each of 32 bands of the mel scale: the lowest are the grounds', in the others lies
# the shape's sound, a chord that is loudest at the pitch
NUM_VOICES = 32
DRONES = (0, 2, 4, 6)
DRONE_LOUDNESS = 0.15
LOWEST_PITCH, HIGHEST_PITCH = 10.0, 30.0
CHORD_WIDTH = 3.5
LOUDNESS = 0.15


@dataclass(frozen=True, slots=True)
class Scene:
    """What one clip shows; lengths are shares of the picture's side."""

    sky: str
    colour: str
    shape: str
    move: str
    radius: float
    start: tuple[float, float]
    """(from left, from the bottom) of the shape's centre, in [0, 1]."""
    end: tuple[float, float]
    ground: int
    """Place in GROUNDS and DRONES."""
    beats: tuple[float, ...]
    """Levels of the light, 0 or 1, one after the other; they begin again after the last."""
    beats_per_s: float = BEATS_PER_S

    @property
    def caption(self) -> str:
        return f"{self.sky}: a {self.colour} {self.shape} {self.move}"

    def place(self, share: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns (from left, from the bottom) of the centre after shares of the clip's time."""
        (x, y), (end_x, end_y) = self.start, self.end
        return x + share * (end_x - x), y + share * (end_y - y)

    def light(self, times_s: NDArray[np.float64]) -> NDArray[np.float32]:
        """Returns the level of the light at these times."""
        levels = np.array(self.beats, np.float32)
        return np.asarray(levels[(times_s * self.beats_per_s).astype(int) % len(levels)])


def make_clips(
    folder: Path | str,
    num_clips: int,
    seed: int = 0,
    *,
    size: int = 64,
    frames_per_s: float = 16.0,
    duration_s: float = 2.0,
    is_by_class: bool = False,
    are_pictures: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Writes num_clips H.264 + AAC clips and a captions.jsonl; the same seed writes the same
    scenes.

    size: pixels per side. is_by_class: each clip goes into a sub-folder that is named by its sky.
    are_pictures: the moment in the middle of each clip, in full light and as png. progress is told
    (written, num_clips) after each clip. Raises MoescopeError where the folder holds something
    already or cannot be written.
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
        if are_pictures:
            name = f"{Path(name).stem}.png"
        if is_by_class:
            name = f"{scene.sky}/{name}"
            (root / scene.sky).mkdir(exist_ok=True)
        paths.append(root / name)
        if are_pictures:
            write_picture(paths[-1], paint_middle(scene, size))
        else:
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
    move = str(chance.choice(list(MOVES)))
    across, up = MOVES[move]
    middle, way = chance.uniform(0.1, 0.9, 2), chance.uniform(0.5, 0.9)
    # along its way it passes the middle of the picture; across it, it stays anywhere
    x, y = ((0.5, middle[1]) if across else (middle[0], 0.5)) + chance.uniform(-0.05, 0.05, 2)
    return Scene(
        sky=str(chance.choice(list(SKIES))),
        colour=str(chance.choice(list(COLOURS))),
        shape=str(chance.choice(SHAPES)),
        move=move,
        radius=float(chance.uniform(0.26, 0.34)),
        start=(float(x - across * way / 2), float(y - up * way / 2)),
        end=(float(x + across * way / 2), float(y + up * way / 2)),
        ground=int(chance.integers(len(GROUNDS))),
        beats=tuple(chance.integers(0, 2, 16).astype(float).tolist()),
    )


def paint(scene: Scene, size: int, frames_per_s: float, duration_s: float) -> NDArray[np.uint8]:
    """Returns the scene's pictures, video_FHWC."""
    num_frames = round(duration_s * frames_per_s)
    x_F, y_F = scene.place(np.arange(num_frames) / num_frames)
    sides = (np.arange(size, dtype=np.float32) + 0.5) / size
    dx_F1W = sides[None, None, :] - x_F[:, None, None].astype(np.float32)
    dy_FH1 = sides[None, ::-1, None] - y_F[:, None, None].astype(np.float32)
    inside_FHW1 = np.clip(_depth(scene, dx_F1W, dy_FH1) / SOFT_EDGE + 0.5, 0.0, 1.0)[..., None]
    light_F = DARKEST + (1 - DARKEST) * scene.light(np.arange(num_frames) / frames_per_s)
    front = np.array(COLOURS[scene.colour], np.float32)
    sky, ground = (np.array(c, np.float32) for c in (SKIES[scene.sky], GROUNDS[scene.ground]))
    back_H1C = np.where(sides[:, None, None] < 1 - GROUND_HEIGHT, sky, ground)
    lit_FHWC = back_H1C + inside_FHW1 * (front - back_H1C)
    video_FHWC = light_F[:, None, None, None] * lit_FHWC
    return np.asarray(video_FHWC.round().clip(0, 255), dtype=np.uint8)


def paint_middle(scene: Scene, size: int) -> NDArray[np.uint8]:
    """Returns the picture in the middle of the scene's time, in full light; picture_HWC."""
    # of two frames the second begins at half the time
    picture_HWC: NDArray[np.uint8] = paint(replace(scene, beats=(1.0,)), size, 1.0, 2.0)[1]
    return picture_HWC


def play(scene: Scene, duration_s: float) -> NDArray[np.float32]:
    """Returns the scene's sound, audio_A.

    voice k sounds with exp(-((k - pitch(y)) / CHORD_WIDTH)^2 / 2), pitch in equal steps from bottom
    to top: its log-mel is a parabola that moves with the shape. One more voice is the ground's. The
    light makes all of it louder, in equal ratios for equal steps.
    """
    num_steps = round(duration_s * SAMPLE_RATE_HZ / STEP_SAMPLES)
    _, y_T = scene.place(np.arange(num_steps) / num_steps)
    light_T = scene.light(np.arange(num_steps) * STEP_SAMPLES / SAMPLE_RATE_HZ)
    pitch_T = LOWEST_PITCH + np.clip(y_T, 0, 1) * (HIGHEST_PITCH - LOWEST_PITCH)
    distance_VT = (np.arange(NUM_VOICES)[:, None] - pitch_T) / CHORD_WIDTH
    envelope_VT = (LOUDNESS * np.exp(-0.5 * distance_VT**2)).astype(np.float32)
    envelope_VT[DRONES[scene.ground]] += DRONE_LOUDNESS
    envelope_VT *= 10 ** (QUIETEST_DB * (1 - light_T) / 20)
    audio_TS = np.einsum("vt,vts->ts", envelope_VT, _voices(num_steps))
    return np.asarray(audio_TS.ravel(), dtype=np.float32)


@lru_cache(maxsize=2)
def _voices(num_steps: int) -> NDArray[np.float32]:
    """Returns one sine for each voice, (voice, step, sample of the step)."""
    edges_hz = to_hz(np.linspace(to_mel(LOWEST_HZ), to_mel(HIGHEST_HZ), NUM_VOICES + 2))
    radians_A = 2 * np.pi * np.arange(num_steps * STEP_SAMPLES) / SAMPLE_RATE_HZ
    # a phase of its own for each voice keeps their peaks apart
    phases_V = np.arange(NUM_VOICES) ** 2
    voices_VA = np.sin(edges_hz[1:-1, None] * radians_A + phases_V[:, None])
    return voices_VA.astype(np.float32).reshape(NUM_VOICES, num_steps, STEP_SAMPLES)


def _depth(scene: Scene, dx: NDArray[Any], dy: NDArray[Any]) -> NDArray[Any]:
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
