"""CLIP of transformers from a folder of this machine: frames and captions as directions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...platform.errors import MoescopeError
from ..encoders.local import library, model_folder, one_line, read_config

# B clips or captions  C colours  F frames  H, W pixels  P features

FRAMES_AT_ONCE = 64
PREPARATION_FILES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


class ClipModel:
    """A CLIP in evaluation mode with its tokenizer, and its own preparation of pictures (by
    Pillow: resized, cut to the middle, normalised)."""

    def __init__(self, module: Any, tokenizer: Any, preparation: Any) -> None:
        self._module, self._tokenizer, self._preparation = module, tokenizer, preparation

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._module.device
        return device

    @torch.no_grad()
    def frames(self, levels_BCFHW: Tensor) -> NDArray[np.float64]:
        """Returns (B, F, P) of uint8 clips, each of length 1."""
        frames = levels_BCFHW.transpose(1, 2).flatten(0, 1).cpu()
        parts = []
        for part in frames.split(FRAMES_AT_ONCE):
            pictures = [picture.permute(1, 2, 0).numpy() for picture in part]
            pixels = self._preparation(
                pictures, input_data_format="channels_last", return_tensors="pt"
            ).pixel_values
            parts.append(self._module.get_image_features(pixels.to(self._device)).pooler_output)
        return _unit(torch.cat(parts)).reshape(len(levels_BCFHW), levels_BCFHW.shape[2], -1)

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> NDArray[np.float64]:
        """Returns (B, P), each of length 1; what is longer than CLIP reads is cut off."""
        tokens = self._tokenizer(
            list(captions),
            padding=True,
            truncation=True,
            max_length=self._module.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self._device)
        said = self._module.get_text_features(tokens.input_ids, tokens.attention_mask)
        return _unit(said.pooler_output)


def load_clip(path: Path, device: torch.device, key: str = "--clip") -> ClipModel:
    """Loads a CLIP, its tokenizer and its preparation of pictures from a folder, or `clip/` in it.

    key: what named the folder, for errors. Raises MoescopeError where one of them is not there,
    where it is another model, or where transformers is not installed.
    """
    folder = model_folder(str(path), "clip", key)
    kind = read_config(folder).get("model_type")
    if kind != "clip":
        raise MoescopeError(f"{folder} holds a model of kind {kind}, but a clip is needed")
    if not any((folder / name).is_file() for name in PREPARATION_FILES):
        raise MoescopeError(
            f"{folder} does not say how pictures are prepared: put the model's "
            f"{PREPARATION_FILES[0]} there"
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise MoescopeError(
            f"{folder} has no tokenizer: put the model's {TOKENIZER_FILES[0]} there"
        )
    transformers = library("transformers")
    with one_line(folder):
        module = transformers.CLIPModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        )
        module.eval().requires_grad_(False).to(device)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # the one that needs no torchvision
        preparation = transformers.CLIPImageProcessorPil.from_pretrained(
            folder, local_files_only=True
        )
    return ClipModel(module, tokenizer, preparation)


def _unit(said_BP: Tensor) -> NDArray[np.float64]:
    unit_BP: NDArray[np.float64] = torch.nn.functional.normalize(said_BP.double(), dim=-1).numpy(
        force=True
    )
    return unit_BP
