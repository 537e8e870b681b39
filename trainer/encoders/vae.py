"""VAEs of diffusers: pixels to latents of about unit scale, and back."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...platform.errors import MoescopeError
from ..config import DataConfig, RunConfig
from .local import library, loading, model_folder, one_line, read_config, refuse_gaps

# B batch  C colours  L latent channels  F frames  H, W pixels, or cells of latents

KINDS = ("AutoencoderKLWan", "AutoencoderKL")
MOST_PIXELS = 2**22
"""Of the clips that are encoded or decoded at once; a longer clip goes alone."""


class Shape(NamedTuple):
    """What a VAE makes of a clip, in the recipe's words."""

    latent_channels: int
    latent_size: int
    latent_frames: int


class Vae:
    """A VAE in evaluation mode, fp32; latents are normalised as its configuration says.

    z = (mean of the posterior - mean_L) / std_L. The posterior's mean, not a draw of it: the same
    clip gives the same latents. AutoencoderKL takes a video frame by frame.
    """

    def __init__(self, module: Any, shape: Shape, mean_L: Tensor, std_L: Tensor) -> None:
        self.shape = shape
        self._module = module
        self._mean, self._std = (value.view(1, -1, 1, 1, 1) for value in (mean_L, std_L))
        self._is_of_video = type(module).__name__ == "AutoencoderKLWan"

    @torch.no_grad()
    def encode(self, video_BCFHW: Tensor) -> Tensor:
        """Returns the latents (B, L, 1 + (F - 1) / latent_frames, H / latent_size, W / latent_size)
        of pixels in [-1, 1]; fp32, on the VAE's device."""
        parts = [self._encode(part) for part in _parts(video_BCFHW, 1)]
        return (torch.cat(parts) - self._mean) / self._std

    @torch.no_grad()
    def decode(self, latents_BLFHW: Tensor) -> Tensor:
        """Returns the pixels (B, 3, F, H, W) of latents, in [-1, 1]; fp32, on the VAE's device."""
        pixels_of_a_value = self.shape.latent_frames * self.shape.latent_size**2
        raw = latents_BLFHW.to(self._mean.device, torch.float32) * self._std + self._mean
        return torch.cat([self._decode(part) for part in _parts(raw, pixels_of_a_value)])

    def _encode(self, video_BCFHW: Tensor) -> Tensor:
        x = video_BCFHW.to(self._mean.device, torch.float32)
        if self._is_of_video:
            latents: Tensor = self._module.encode(x).latent_dist.mode()
            return latents
        frames = self._module.encode(_as_pictures(x)).latent_dist.mode()
        return _as_video(frames, len(x))

    def _decode(self, latents_BLFHW: Tensor) -> Tensor:
        if self._is_of_video:
            video: Tensor = self._module.decode(latents_BLFHW).sample
        else:
            pictures = self._module.decode(_as_pictures(latents_BLFHW)).sample
            video = _as_video(pictures, len(latents_BLFHW))
        return video.float().clamp(-1, 1)


def load_vae(path: str, device: torch.device, key: str = "data.vae") -> Vae:
    """Loads a VAE from a folder of this machine, or from `vae/` in it.

    Raises MoescopeError where there is none, where it is of another kind than KINDS, or where
    diffusers is not installed.
    """
    return _load(str(vae_folder(path, key)), device)


def vae_of(config: RunConfig, device: torch.device) -> Vae:
    """Loads the VAE in data.vae; kept until another one is asked for.

    Raises MoescopeError as `load_vae`, and where it does not fit the recipe. That it is the run's
    own, `of_run.with_encoder` makes sure.
    """
    folder = vae_folder(config.data.vae)
    vae = _load(str(folder), device)
    refuse_misfit(vae.shape, config.data, folder)
    return vae


def vae_folder(path: str, key: str = "data.vae") -> Path:
    """Finds a VAE. Raises MoescopeError where there is none."""
    return model_folder(path, "vae", key)


def refuse_misfit(shape: Shape, data: DataConfig, folder: Path) -> None:
    """Raises MoescopeError where a VAE's latents are not of the recipe's shape, with the keys that
    make the recipe fit."""
    asked = Shape(data.latent_channels, data.latent_size, data.latent_frames)
    if shape == asked:
        return
    others = [key for key in Shape._fields if getattr(shape, key) != getattr(asked, key)]
    told = ", ".join(f"data.{k} {getattr(shape, k)} (not {getattr(asked, k)})" for k in others)
    fix = " ".join(f"--set data.{k}={getattr(shape, k)}" for k in others)
    raise MoescopeError(f"the VAE in {folder} does not fit the recipe, it has {told}: {fix}")


@lru_cache(maxsize=1)
def _load(path: str, device: torch.device) -> Vae:
    folder = Path(path)
    kind = read_config(folder).get("_class_name")
    if kind not in KINDS:
        raise MoescopeError(
            f"{folder} holds a model of kind {kind}, but a VAE is needed: {' or '.join(KINDS)}"
        )
    diffusers = library("diffusers")
    with one_line(folder):
        module, info = getattr(diffusers, kind).from_pretrained(
            folder,
            torch_dtype=torch.float32,
            # else it warns, in five lines, wherever accelerate is not installed
            low_cpu_mem_usage=False,
            **loading(folder),
        )
        refuse_gaps(folder, info)
        module.eval().requires_grad_(False).to(device)
        c = module.config
        if kind == "AutoencoderKLWan":
            size = 2 ** (len(c.dim_mult) - 1) * (c.patch_size or 1)
            shape = Shape(c.z_dim, size, 2 ** sum(map(bool, c.temperal_downsample)))
            mean_L, std_L = torch.tensor(c.latents_mean), torch.tensor(c.latents_std)
        else:
            shape = Shape(c.latent_channels, 2 ** (len(c.block_out_channels) - 1), 1)
            # the latents that diffusion models know are (z - shift_factor) * scaling_factor
            mean_L = torch.full((c.latent_channels,), c.shift_factor or 0.0)
            std_L = torch.full((c.latent_channels,), 1 / c.scaling_factor)
        if not len(mean_L) == len(std_L) == shape.latent_channels:
            raise MoescopeError(
                f"{folder / 'config.json'} has {len(mean_L)} means and {len(std_L)} deviations for "
                f"{shape.latent_channels} latent channels: put the model's own there"
            )
        return Vae(module, shape, mean_L.to(device), std_L.to(device))


def _parts(batch: Tensor, pixels_of_a_value: int) -> list[Tensor]:
    pixels = batch[0, 0].numel() * pixels_of_a_value
    return list(batch.split(max(1, MOST_PIXELS // pixels)))


def _as_pictures(video_BCFHW: Tensor) -> Tensor:
    return video_BCFHW.transpose(1, 2).flatten(0, 1)


def _as_video(pictures: Tensor, num_clips: int) -> Tensor:
    video_BCFHW: Tensor = pictures.unflatten(0, (num_clips, -1)).transpose(1, 2)
    return video_BCFHW
