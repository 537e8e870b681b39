"""Networks that see what clips look like, from TorchScript files of this machine: for pictures and
for videos.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...platform.errors import MoescopeError

# B clips  C colours  F frames  H, W pixels  N frames of all clips  P features  K classes

VIDEO_SIDE = 224
"""Pixels of what a network of videos sees. Source: the I3D of FVD, arXiv 1812.01717."""
FRAMES_AT_ONCE = 64
CLIPS_AT_ONCE = 8
SHARES_ERROR = 1e-2
"""By which probabilities may miss a sum of 1: those of 1,008 classes in half precision."""


class ImageFeatures:
    """A network of pictures, for FID and IS.

    It is called as `inception-2015-12-05.pt` of NVIDIA's StyleGAN2-ADA is: with uint8
    (N, 3, H, W), 0 to 255, at the clips' own size, and `return_features=True`, for float features
    (N, P), there 2048. The same without it, and with `no_output_bias=True` where its forward knows
    that, gives probabilities of classes (N, K), there 1008. A network whose forward takes one
    argument is called with that, and knows no classes.
    """

    def __init__(self, path: Path, device: torch.device, key: str = "--image-features") -> None:
        """key: what named the path, for errors. Raises MoescopeError where it is no TorchScript."""
        self._network = _Network(path, device, key)
        self.knows_classes = "return_features" in self._network.keywords

    def features(self, levels_BCFHW: Tensor) -> NDArray[np.float64]:
        """Returns (N, P) of all frames, clip after clip. Raises MoescopeError where the network
        answers otherwise."""
        return self._of_frames(levels_BCFHW, {"return_features": True})

    def class_shares(self, levels_BCFHW: Tensor) -> NDArray[np.float64]:
        """Returns probabilities (N, K) of all frames, where knows_classes. Raises as `features`."""
        share_NK = self._of_frames(levels_BCFHW, {"no_output_bias": True})
        off = np.abs(share_NK.sum(1) - 1).max()
        if share_NK.min() < 0 or off > SHARES_ERROR:
            raise MoescopeError(
                f"{self._network.name} without return_features gives no probabilities of classes: "
                f"they add up to {share_NK.sum(1)[0]:.3g}, and the least is {share_NK.min():.3g}"
            )
        return share_NK

    def _of_frames(self, levels_BCFHW: Tensor, asked: dict[str, bool]) -> NDArray[np.float64]:
        frames = levels_BCFHW.transpose(1, 2).flatten(0, 1)
        parts = [self._network.answer(x, asked) for x in frames.split(FRAMES_AT_ONCE)]
        return np.concatenate(parts)


class VideoFeatures:
    """A network of videos, for FVD.

    It is called as `i3d_torchscript.pt` of StyleGAN-V is: with float (B, 3, F, 224, 224), -1 to 1,
    and `rescale=False, resize=False, return_features=True`, for float features (B, P), there the
    400 logits. A network whose forward takes one argument is called with that. Frames are resized
    to the square without regard to their shape, bilinear and without smoothing, as in the first
    FVD. That I3D needs nine frames at the least. Source: arXiv 1812.01717; preprocess of
    google-research/frechet_video_distance.
    """

    def __init__(self, path: Path, device: torch.device, key: str = "--video-features") -> None:
        """key: what named the path, for errors. Raises MoescopeError where it is no TorchScript."""
        self._network = _Network(path, device, key)

    def features(self, levels_BCFHW: Tensor) -> NDArray[np.float64]:
        """Returns (B, P). Raises MoescopeError where the network answers otherwise."""
        return np.concatenate(list(self._parts(levels_BCFHW)))

    def _parts(self, levels_BCFHW: Tensor) -> Iterator[NDArray[np.float64]]:
        asked = {"rescale": False, "resize": False, "return_features": True}
        for part in levels_BCFHW.split(CLIPS_AT_ONCE):
            frames = part.transpose(1, 2).flatten(0, 1).float()
            square = F.interpolate(frames, (VIDEO_SIDE, VIDEO_SIDE), mode="bilinear")
            video = square.unflatten(0, (len(part), -1)).transpose(1, 2) / 127.5 - 1
            yield self._network.answer(video.contiguous(), asked)


class _Network:
    """A TorchScript module in evaluation mode, and the keywords that its forward knows."""

    def __init__(self, path: Path, device: torch.device, key: str) -> None:
        self.name = f"{key} {path}"
        self._device = device
        if not path.is_file():
            raise MoescopeError(f"{self.name}: there is no such file; a TorchScript file is needed")
        with warnings.catch_warnings():
            # torch would have files made by torch.export, but those networks are not given as such
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                self._module: Any = torch.jit.load(str(path), map_location=device)
            except (RuntimeError, OSError) as error:
                raise MoescopeError(
                    f"{self.name} is no TorchScript, as torch.jit.save writes it: {_last(error)}"
                ) from None
        self._module.eval()
        _, _, *rest = self._module.forward.schema.arguments
        self.keywords = {argument.name for argument in rest}

    @torch.no_grad()
    def answer(self, x: Tensor, asked: dict[str, bool]) -> NDArray[np.float64]:
        """Returns (B, P) fp64 of what the module says, with those of the keywords that it knows.
        Raises MoescopeError where it fails, or where that is no such matrix of finite numbers."""
        known = {name: value for name, value in asked.items() if name in self.keywords}
        try:
            said = self._module(x.to(self._device), **known)
        except RuntimeError as error:
            raise MoescopeError(f"{self.name} fails on {_of(x)}: {_last(error)}") from None
        if not isinstance(said, Tensor):
            raise MoescopeError(f"{self.name} gives a {type(said).__name__}, not a tensor")
        if said.ndim != 2 or len(said) != len(x) or not said.shape[1]:
            raise MoescopeError(
                f"{self.name} gives {_of(said)} for {_of(x)}: features of shape "
                f"({len(x)}, P) are needed"
            )
        answer_BP: NDArray[np.float64] = said.double().cpu().numpy()
        if not np.isfinite(answer_BP).all():
            raise MoescopeError(f"{self.name} gives features that are not finite")
        return answer_BP


def _of(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"


def _last(error: Exception) -> str:
    """The line of an error that says what is wrong: TorchScript tells its own code before."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1].removeprefix("RuntimeError: ")[:200]
