"""What the tokens of a batch stand for: their kind, noise level, motion, place and class.

B batch  S tokens at the end of a block's sequence (video, then audio)  V values of a trait
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...platform import catalogue
from ..config import RunConfig
from ..data.batches import Batch
from ..model.make import modality_tokens
from ..model.tokens import patch_video

MOST_CLASSES = 16
NONE = -1
"""Of a token that has no value of a trait."""
_KIND = {name: number for number, name in enumerate(catalogue.TOKEN_KINDS)}


class Trait(NamedTuple):
    value_BS: Tensor
    """int64; NONE where a token has none. One row where it is the same for all samples."""
    num_values: int
    of_told: int = NONE
    """Of the tokens in front: caption, class, reference picture."""


def token_traits(batch: Batch, config: RunConfig) -> dict[str, Trait]:
    """Returns the traits that do not depend on the noise, under the names of the signals that are
    counted by them. A trait that all tokens share is left out.

    batch: as the model sees it. Motion: mean change of a token's patch from the frame before it, in
    quarters of the batch's video tokens; the first frame has that of the second. Region: thirds of
    the picture. Class: of the clip, the first MOST_CLASSES in the batch.
    """
    device = batch.video_BCFHW.device
    sizes = modality_tokens(config)
    traits = {catalogue.ROUTING_BY_REGION: _region(config, sum(sizes), device)}
    if config.tokens_per_sample > sizes[0]:
        kinds = [_KIND[name] for name in catalogue.MODALITIES[: len(sizes)]]
        kind_S = torch.tensor(kinds, device=device).repeat_interleave(
            torch.tensor(sizes, device=device)
        )
        told = _KIND["told"]
        traits[catalogue.ROUTING_BY_KIND] = Trait(kind_S[None], len(catalogue.TOKEN_KINDS), told)
    if config.grid[0] > 1:
        traits[catalogue.ROUTING_BY_MOTION] = _motion(batch, config, sum(sizes))
    classes = batch.label_B.unique()[:MOST_CLASSES]
    if len(classes) > 1:
        is_class_BV = batch.label_B[:, None] == classes
        number_B = torch.where(is_class_BV.any(1), is_class_BV.float().argmax(1), NONE)
        value_BS = number_B[:, None].expand(-1, sum(sizes))
        traits[catalogue.ROUTING_BY_CLASS] = Trait(value_BS, len(classes))
    return traits


def timestep_trait(bin_MB: Tensor, config: RunConfig, num_bins: int) -> Trait:
    """Returns the part of the noise level that each token's modality has in a pass of the probe."""
    sizes = modality_tokens(config)
    parts = [bin_MB[m][:, None].expand(-1, size) for m, size in enumerate(sizes)]
    return Trait(torch.cat(parts, dim=1), num_bins)


def _region(config: RunConfig, num_tokens: int, device: torch.device) -> Trait:
    frames, height, width = config.grid
    row_H, column_W = np.arange(height) * 3 // height, np.arange(width) * 3 // width
    region_HW = row_H[:, None] * 3 + column_W
    region_S = np.full(num_tokens, NONE)
    region_S[: frames * height * width] = np.tile(region_HW.reshape(-1), frames)
    value_BS = torch.from_numpy(region_S)[None].to(device)
    return Trait(value_BS, len(catalogue.REGIONS))


def _motion(batch: Batch, config: RunConfig, num_tokens: int) -> Trait:
    frames = config.grid[0]
    patch_BFTP = patch_video(batch.video_BCFHW, config).unflatten(1, (frames, -1))
    change_BFT = (patch_BFTP[:, 1:] - patch_BFTP[:, :-1]).abs().mean(-1)
    change_BS = torch.cat((change_BFT[:, :1], change_BFT), dim=1).flatten(1)
    num = len(catalogue.MOTION_BINS)
    # on the host: a quantile has a limit of elements on a device
    edges = np.quantile(change_BS.cpu().numpy(), np.arange(1, num) / num)
    bin_BS = torch.bucketize(change_BS, torch.from_numpy(edges).to(change_BS))
    value_BS = bin_BS.new_full((len(bin_BS), num_tokens), NONE)
    value_BS[:, : bin_BS.shape[1]] = bin_BS
    return Trait(value_BS, num)
