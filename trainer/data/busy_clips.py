"""Makes clips busy: harder than the others, and honest; pictures, sound and caption still tell each
other's story.
"""

# A audio samples
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from .captions import CAPTION_FILE, read_caption_file
from .headers import open_clip, video_of
from .make_clips import SAMPLE_RATE_HZ, paint, play, scene_of
from .write_clip import write_clip

NUM_SCENES = 2
BEATS_PER_S = 16.0
"""Of the light: what is bright and loud changes four times as often as in other clips."""


def busy_clips(paths: Iterable[Path], seed: int = 0) -> list[Path]:
    """Rewrites made clips: two scenes side by side, each squeezed into half of the width and in a
    light of its own that beats fast; both are heard, and the caption tells one after the other.

    Size, frame rate and length stay. Raises UnreadableClip, and MoescopeError as write_clip does.
    """
    paths = list(paths)
    for path in paths:
        scenes = [
            replace(scene_of(seed, f"{path.name} {n}"), beats_per_s=BEATS_PER_S)
            for n in range(NUM_SCENES)
        ]
        with open_clip(path) as container:
            stream = video_of(container)
            size, frames_per_s = stream.width, float(stream.average_rate or 25)
            duration_s = stream.frames / frames_per_s
        shown = [paint(s, size, frames_per_s, duration_s)[:, :, ::NUM_SCENES] for s in scenes]
        heard = sum(play(s, duration_s) for s in scenes)
        audio_A = np.asarray(heard, np.float32).clip(-1, 1)
        write_clip(path, np.concatenate(shown, axis=2), audio_A, SAMPLE_RATE_HZ, frames_per_s)
        _tell(path, "; ".join(scene.caption for scene in scenes))
    return paths


def _tell(path: Path, caption: str) -> None:
    file = path.parent / CAPTION_FILE
    captions = {**read_caption_file(file), path.name: caption}
    lines = [json.dumps({"file": name, "caption": told}) for name, told in captions.items()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
