"""Figures of made clips beside held-out ones, each with what it rests on; and why others are
missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .eyes import Seen
from .frechet import frechet_distance
from .scores import caption_cosine, inception_score, neighbour_cosine

# B clips  F frames  N frames of all clips  P features  K classes

FID, IS, FVD = "FID", "IS", "FVD"
STILLNESS, CONSISTENCY, CLIPSIM = "temporal flickering", "CLIP consistency", "CLIPSIM"


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    made: float
    """Of the made clips; of a distance, how far they are from the held-out ones."""
    held_out: float | None
    """The same of the held-out clips; None of a distance."""
    better: str
    num_clips: int
    """Made clips that it rests on, and as many held-out ones."""
    num_frames: int
    """Of all those made clips."""
    note: str
    """Why it is not to be trusted; empty where nothing speaks against it."""


class Compared(NamedTuple):
    """Figures, and {name: reason} of those that could not be computed."""

    figures: tuple[Figure, ...]
    missing: Mapping[str, str]


class _Side(NamedTuple):
    made: Seen
    held_out: Seen
    num_frames: int
    """Of a clip."""


def compare(
    made: Seen,
    held_out: Seen,
    num_frames: int,
    caption_BP: NDArray[np.float64] | None = None,
    has_caption_B: Sequence[bool] = (),
    *,
    has_text: bool,
) -> Compared:
    """Computes the figures for which something was seen.

    num_frames: of a clip. caption_BP: CLIP's features of the captions, in the order of the clips;
    those without a caption do not count. has_text: whether the model reads captions.
    """
    both = _Side(made, held_out, num_frames)
    found: dict[str, Figure | str] = {
        FID: _distance(FID, made.image_NP, held_out.image_NP, both, "--image-features"),
        IS: _inception_score(both),
        FVD: _fvd(both),
        STILLNESS: _stillness(both),
        CONSISTENCY: _consistency(both, has_text),
        CLIPSIM: _clipsim(both, caption_BP, has_caption_B, has_text),
    }
    return Compared(
        tuple(figure for figure in found.values() if isinstance(figure, Figure)),
        {name: reason for name, reason in found.items() if isinstance(reason, str)},
    )


def _distance(
    name: str,
    made: NDArray[np.float64] | None,
    held_out: NDArray[np.float64] | None,
    both: _Side,
    option: str,
) -> Figure | str:
    if made is None or held_out is None:
        return f"give {option} PATH"
    frames_of_row = both.num_frames if name == FID else 1
    num_rows, width = made.shape
    if num_rows < 2:
        return "a distance needs two clips: a larger --num-clips, or data.validation_share"
    num_clips = num_rows // frames_of_row
    return Figure(
        name,
        frechet_distance(held_out, made),
        None,
        "lower",
        num_clips,
        num_clips * both.num_frames,
        _few(num_clips, width, "features", "biased upwards"),
    )


def _fvd(both: _Side) -> Figure | str:
    if both.num_frames == 1:
        return "the clips have one frame"
    return _distance(FVD, both.made.video_BP, both.held_out.video_BP, both, "--video-features")


def _inception_score(both: _Side) -> Figure | str:
    made, held_out = both.made.share_NK, both.held_out.share_NK
    if both.made.image_NP is None:
        return "give --image-features PATH"
    if made is None or held_out is None:
        return "the network of --image-features knows no classes (no return_features)"
    num_frames, num_classes = made.shape
    num_clips = num_frames // both.num_frames
    return Figure(
        IS,
        inception_score(made),
        inception_score(held_out),
        "higher",
        num_clips,
        num_frames,
        _few(num_clips, num_classes, "classes", "biased downwards"),
    )


def _stillness(both: _Side) -> Figure | str:
    if both.made.still_B is None or both.held_out.still_B is None:
        return "the clips have one frame"
    made_B, held_out_B = both.made.still_B, both.held_out.still_B
    return _mean(STILLNESS, made_B, held_out_B, "near held out", both.num_frames)


def _consistency(both: _Side, has_text: bool) -> Figure | str:
    if both.num_frames == 1:
        return "the clips have one frame"
    if both.made.clip_BFP is None or both.held_out.clip_BFP is None:
        return "give --clip PATH" if has_text else "the model reads no captions"
    made_B, held_out_B = map(neighbour_cosine, (both.made.clip_BFP, both.held_out.clip_BFP))
    return _mean(CONSISTENCY, made_B, held_out_B, "near held out", both.num_frames)


def _clipsim(
    both: _Side,
    caption_BP: NDArray[np.float64] | None,
    has_caption_B: Sequence[bool],
    has_text: bool,
) -> Figure | str:
    if not has_text:
        return "the model reads no captions"
    made, held_out = both.made.clip_BFP, both.held_out.clip_BFP
    if made is None or held_out is None or caption_BP is None:
        return "give --clip PATH"
    told = np.array(has_caption_B)
    if not told.any():
        return "none of the clips has a caption"
    made_B, held_out_B = (caption_cosine(x[told], caption_BP[told]) for x in (made, held_out))
    return _mean(CLIPSIM, made_B, held_out_B, "higher", both.num_frames)


def _mean(
    name: str,
    made_B: NDArray[np.float64],
    held_out_B: NDArray[np.float64],
    better: str,
    num_frames: int,
) -> Figure:
    made, held_out = float(made_B.mean()), float(held_out_B.mean())
    return Figure(name, made, held_out, better, len(made_B), len(made_B) * num_frames, "")


def _few(num_clips: int, width: int, what: str, how: str) -> str:
    """Says where clips are fewer than features: frames of one clip are too alike to count."""
    if num_clips >= width:
        return ""
    clips = "1 clip" if num_clips == 1 else f"{num_clips} clips"
    return f"{how}: {clips}, {width} {what}; compare only with as many clips"
