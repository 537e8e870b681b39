"""What is seen of clips a few at a time, so that only features are kept of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .clip_model import ClipModel
from .extractors import ImageFeatures, VideoFeatures
from .scores import stillness

# B clips  C colours  F frames  H, W pixels  N frames of all clips  P features  K classes


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of clips; None where nobody looked."""

    still_B: NDArray[np.float64] | None = None
    """`scores.stillness`; None of clips of one frame."""
    image_NP: NDArray[np.float64] | None = None
    share_NK: NDArray[np.float64] | None = None
    video_BP: NDArray[np.float64] | None = None
    clip_BFP: NDArray[np.float64] | None = None
    """CLIP's features of the frames, of length 1."""


@dataclass(frozen=True, slots=True)
class Eyes:
    """The networks that look at clips; None where none was given."""

    images: ImageFeatures | None = None
    videos: VideoFeatures | None = None
    clip: ClipModel | None = None

    def see(self, levels_BCFHW: Tensor) -> Seen:
        """levels_BCFHW: uint8, 0 to 255. Raises MoescopeError as the networks do."""
        images = self.images
        knows_classes = images is not None and images.knows_classes
        return Seen(
            still_B=stillness(levels_BCFHW) if levels_BCFHW.shape[2] > 1 else None,
            image_NP=images.features(levels_BCFHW) if images else None,
            share_NK=images.class_shares(levels_BCFHW) if images and knows_classes else None,
            video_BP=self.videos.features(levels_BCFHW) if self.videos else None,
            clip_BFP=self.clip.frames(levels_BCFHW) if self.clip else None,
        )


def together(parts: Sequence[Seen]) -> Seen:
    """Joins what was seen of several parts, in their order."""
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Seen)}
    return Seen(
        **{name: np.concatenate(c) if c[0] is not None else None for name, c in columns.items()}
    )
