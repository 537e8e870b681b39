"""Where tokens are: a clock and two axes of space, for rotary attention and as a fixed table."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import RunConfig

# B batch  S stream tokens  H heads  P half of a head's width  A axes (time, height, width)  D width


class Extent(NamedTuple):
    """How many tokens of each kind a sample has; this is also their order in the stream."""

    told: int
    """What the clip is told by, without noise: its caption, then its reference picture."""
    video: int
    audio: int

    @property
    def total(self) -> int:
        return self.told + self.video + self.audio


def extent(config: RunConfig) -> Extent:
    """Counts the tokens of one sample."""
    d, m = config.data, config.model
    reference = math.prod(config.grid[1:]) if m.has_reference else 0
    return Extent(
        config.text_tokens + reference,
        math.prod(config.grid),
        d.num_mel_steps // m.patch_mel_steps,
    )


def coordinates(config: RunConfig) -> NDArray[np.float64]:
    """Returns (S, 3): time in frames, height and width in patches, of every token of the stream.

    Video: the middle of its frames, and its place in the grid, from 1. Audio: the middle of its
    stretch on the same clock, and 0 in space, since it is nowhere in the picture. Text: one frame
    per token before the clip begins, and 0 in space. So audio and video of the same moment have the
    same time. The reference picture is where the clip begins, at time 0.
    """
    d, m = config.data, config.model
    frames = config.video_shape[1]
    video = grid_coordinates(config.grid)
    video[:, 0] *= m.patch_frames
    num_audio = d.num_mel_steps // m.patch_mel_steps
    audio = np.zeros((num_audio, 3))
    audio[:, 0] = (np.arange(num_audio) + 0.5) * frames / max(1, num_audio)
    num_text = config.text_tokens
    text = np.zeros((num_text, 3))
    text[:, 0] = np.arange(num_text) - num_text
    reference = grid_coordinates((int(m.has_reference), *config.grid[1:]))
    reference[:, 0] = 0
    return np.concatenate([text, reference, video, audio])


def class_coordinates(config: RunConfig) -> NDArray[np.float64]:
    """Returns (N + S, 3) of a class network's sequence: N in-context class tokens at 0, nowhere in
    the picture, then the grid's.

    Turned by 0 they are left as they are, in the terms of JiT cos = 1 and sin = 0 (facts: model.md
    6.2).
    """
    nowhere = np.zeros((config.model.num_class_tokens, 3))
    return np.concatenate([nowhere, grid_coordinates(config.grid)])


def grid_coordinates(grid: tuple[int, int, int]) -> NDArray[np.float64]:
    """Returns (S, 3): the places of a grid's tokens; time from 0.5, height and width from 1."""
    time, height, width = grid
    t, h, w = np.meshgrid(
        np.arange(time) + 0.5, np.arange(height) + 1.0, np.arange(width) + 1.0, indexing="ij"
    )
    return np.stack([t, h, w], axis=-1).reshape(-1, 3)


def axis_split(head_width: int, num_axes: int = 3) -> tuple[int, ...]:
    """Splits a head's width among the axes. 3: time, height and width get d - 4 * (d // 6), 2 *
    (d // 6), 2 * (d // 6). 2: half each. 1: all.

    Source: Wan, and DSMoE for two axes (facts: model.md 6.2). head_width is even, for two axes a
    multiple of 4.
    """
    if num_axes == 3:
        space = 2 * (head_width // 6)
        return head_width - 2 * space, space, space
    return (head_width // num_axes,) * num_axes


def rotary_positions(config: RunConfig, coordinates_S3: NDArray[np.float64]) -> Tensor | None:
    """Returns the rotary table that model.rotary asks for, or None.

    3d: all coordinates. 2d: height and width, so that frames differ by content only. 1d: the place
    in the sequence.
    """
    m = config.model
    if m.rotary == "none":
        return None
    axes = {
        "3d": coordinates_S3,
        "2d": coordinates_S3[:, 1:],
        "1d": np.arange(len(coordinates_S3), dtype=np.float64)[:, None],
    }[m.rotary]
    return rotary_table(axes, m.width // m.heads, m.rope_base)


def rotary_table(coordinates_SA: NDArray[np.float64], head_width: int, base: float) -> Tensor:
    """Returns (2, S, P) fp32: cosine and sine of the angle of each token and pair of channels.

    Pair j of an axis part of width d_a turns by coordinate * base^(-2j / d_a); the parts lie one
    behind the other.
    """
    angles = []
    for axis, part in enumerate(axis_split(head_width, coordinates_SA.shape[1])):
        frequency = base ** (-np.arange(0, part, 2) / max(1, part))
        angles.append(coordinates_SA[:, axis, None] * frequency)
    angle_SP = np.concatenate(angles, axis=1)
    return torch.from_numpy(np.stack([np.cos(angle_SP), np.sin(angle_SP)]).astype(np.float32))


def rotate(x_BHSd: Tensor, table_2SP: Tensor) -> Tensor:
    """Turns channel c against channel c + P by the token's angle (rotate-half), in fp32.

    Dot products of turned queries and keys depend on differences of coordinates only. Source: arXiv
    2104.09864.
    """
    cos_SP, sin_SP = table_2SP
    a, b = x_BHSd.chunk(2, dim=-1)
    return torch.cat([a * cos_SP - b * sin_SP, a * sin_SP + b * cos_SP], dim=-1)


def place_table(coordinates_SA: NDArray[np.float64], width: int) -> Tensor:
    """Returns (S, D) fp32: sines and cosines of each coordinate, as a fixed code of the absolute
    place.

    Rotary attention knows differences only, and a picture has borders: a tone that means "left"
    needs the place itself. The width, a multiple of 4, is split among the axes as in `axis_split`;
    wavelengths run from 2 pi to 2 pi * 100. Source: JiT uses such a table beside RoPE (facts:
    model.md 1.2).
    """
    parts = []
    for axis, part in enumerate(axis_split(width, coordinates_SA.shape[1])):
        half = part // 2
        frequency = 100.0 ** (-np.arange(half) / max(1, half))
        angle = coordinates_SA[:, axis, None] * frequency
        parts += [np.sin(angle), np.cos(angle)]
    return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))
