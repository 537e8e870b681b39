"""What a network sees of the pictures: pixels, latents that a fixed linear code makes of them, or
latents of a VAE, which lie in shards.

`seen` is the one door between decoded batches and networks; `decode` leads back to pixels.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import COLOURS, DataConfig, RunConfig
from ..encoders.vae import vae_of
from ..objective.precondition import cosine_basis, power_law
from .batches import Batch

# B batch  C colours  L latent channels  F frames  H, W pixels, or cells of latents  P pixel values
# of a cell, colours outermost

# luma first, then what differs between red and blue, and between green and both: orthonormal
# colours, nearly uncorrelated in pictures. Source: Ohta 1980, doi 10.1016/0146-664X(80)90047-7
ROTATION = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
# (rms, edge) of the law in space for each of these colours, and its edge in time: fitted to made
# clips, with the luma's edge between theirs and that of photographs, which have finer detail
LAW_OF_COLOUR = ((1.2, 0.08), (0.65, 0.05), (0.47, 0.04))
EDGE_IN_TIME = 0.27


def seen(batch: Batch, config: RunConfig, device: torch.device) -> Batch:
    """Returns a decoded batch as the network sees it, on its device: training, vetting, probe and
    validation alike.
    """
    there = batch.to(device)
    # a VAE's latents come as they are out of the shards
    if config.data.latents != "cosine":
        return there
    return replace(there, video_BCFHW=encode(there.video_BCFHW, config))


def encode(video_BCFHW: Tensor, config: RunConfig) -> Tensor:
    """Returns the latents (B, *config.video_shape) of pixels in [-1, 1]; fp32.

    Raises MoescopeError where a VAE is asked for that is not there (`encoders/vae.py`).
    """
    if config.data.latents == "vae":
        return vae_of(config, video_BCFHW.device).encode(video_BCFHW)
    return _cosine(video_BCFHW, config)


def _cosine(video_BCFHW: Tensor, config: RunConfig) -> Tensor:
    """Returns the latents (B, L, F / latent_frames, H / latent_size, W / latent_size) of pixels.

    Each cell of latent_frames x latent_size x latent_size pixels and three colours becomes
    latent_channels numbers: z_l = b_l . x / s_l, with b_l the orthonormal basis of colours turned
    by ROTATION and cosines along time, height and width, and s_l the standard deviation that the
    law expects of it, so that latents have about unit variance (about zero, as noise has).
    s = min(rms sqrt(n), edge / |f|) in space x min(sqrt(m), EDGE_IN_TIME / sqrt(f)) in time, f in
    cycles per pixel and frame; the basis vectors with the largest s are kept, in that order. It is
    the law of `objective/precondition.py`, for space and time apart, because light changes all
    places at once. fp32.
    """
    d = config.data
    batch, colours, frames, height, width = video_BCFHW.shape
    f, p = d.latent_frames, d.latent_size
    cells = video_BCFHW.reshape(batch, colours, frames // f, f, height // p, p, width // p, p)
    cells_BFHWP = cells.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
    basis_LP, std_L = _on_device(d, video_BCFHW.device)
    latents_BFHWL: Tensor = cells_BFHWP.float() @ basis_LP.T / std_L
    return latents_BFHWL.permute(0, 4, 1, 2, 3).contiguous()


def decode(latents_BLFHW: Tensor, config: RunConfig) -> Tensor:
    """Returns the pixels (B, 3, F, H, W) of latents; frequencies that were not kept are zero.

    Where data.latents is none, the pixels are what came in. Of cosine latents `encode(decode(z)) ==
    z`; with all frequencies kept `decode(encode(x)) == x`, and values may leave [-1, 1]. Raises
    MoescopeError where a VAE is asked for that is not there (`encoders/vae.py`).
    """
    d = config.data
    if d.latents == "none":
        return latents_BLFHW
    if d.latents == "vae":
        return vae_of(config, latents_BLFHW.device).decode(latents_BLFHW)
    f, p = d.latent_frames, d.latent_size
    basis_LP, std_L = _on_device(d, latents_BLFHW.device)
    cells_BFHWP: Tensor = (latents_BLFHW.permute(0, 2, 3, 4, 1).float() * std_L) @ basis_LP
    batch, frames, height, width, _ = cells_BFHWP.shape
    cells = cells_BFHWP.reshape(batch, frames, height, width, COLOURS, f, p, p)
    in_order = cells.permute(0, 4, 1, 5, 2, 6, 3, 7)
    return in_order.reshape(batch, COLOURS, frames * f, height * p, width * p)


def code(data: DataConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the basis (L, P), orthonormal rows, and the expected standard deviations (L,)."""
    f, p = data.latent_frames, data.latent_size
    in_space = [power_law((p, p), rms, edge).double().numpy() for rms, edge in LAW_OF_COLOUR]
    in_time = power_law((f,), 1.0, EDGE_IN_TIME).double().numpy()
    std_CFHW = np.stack(in_space)[:, None] * in_time[None, :, None, None]
    # rounded: what is equal by the law stays in its order whatever the machine's last bits are
    falling = np.argsort(-np.log(std_CFHW).round(4), axis=None, kind="stable")
    kept = falling[: data.latent_channels]
    colour, time, down, across = np.unravel_index(kept, std_CFHW.shape)
    along_time, along_side = (cosine_basis(n).double().numpy() for n in (f, p))
    basis_LCFHW = np.einsum(
        "lc,lf,lh,lw->lcfhw",
        ROTATION[colour],
        along_time[time],
        along_side[down],
        along_side[across],
    )
    return basis_LCFHW.reshape(len(kept), -1), std_CFHW.reshape(-1)[kept]


@lru_cache(maxsize=8)
def _on_device(data: DataConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    basis_LP, std_L = code(data)
    return torch.from_numpy(basis_LP).float().to(device), torch.from_numpy(std_L).float().to(device)
