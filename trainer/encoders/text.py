"""Text encoders of transformers: captions to vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...platform.errors import MoescopeError
from ..config import RunConfig
from .local import library, loading, model_folder, one_line, read_config, refuse_gaps

# S tokens  T width of the vectors

KINDS = ("t5", "umt5", "mt5")
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json")
MOST_AT_ONCE = 16


class TextEncoder:
    """The encoder half of a T5 in evaluation mode, and its tokenizer."""

    def __init__(self, module: Any, tokenizer: Any) -> None:
        self.width = int(module.config.d_model)
        self._module, self._tokenizer = module, tokenizer

    @torch.no_grad()
    def encode(self, captions: Sequence[str], num_tokens: int) -> list[Tensor]:
        """Returns for each caption the last layer's vectors (S, T), fp32 on the CPU: one for each
        of its tokens, the end included, at most num_tokens. An empty caption has none.

        Source: what is behind a caption's end is cut off, and filled with zeros when it is read, as
        in diffusers' WanPipeline.
        """
        found = [torch.zeros(0, self.width) for _ in captions]
        told = [place for place, caption in enumerate(captions) if caption]
        for first in range(0, len(told), MOST_AT_ONCE):
            places = told[first : first + MOST_AT_ONCE]
            tokens = self._tokenizer(
                [captions[place] for place in places],
                padding=True,
                truncation=True,
                max_length=num_tokens,
                return_tensors="pt",
            )
            device = next(self._module.parameters()).device
            ids, mask = tokens.input_ids.to(device), tokens.attention_mask.to(device)
            vectors = self._module(input_ids=ids, attention_mask=mask).last_hidden_state
            for place, vectors_ST, mask_S in zip(places, vectors, mask, strict=True):
                found[place] = vectors_ST[mask_S.bool()].float().cpu()
        return found


def load_text_encoder(
    path: str, device: torch.device, key: str = "data.text_encoder"
) -> TextEncoder:
    """Loads a text encoder and its tokenizer from a folder of this machine, or from
    `text_encoder/` and `tokenizer/` in it; bf16 on a GPU, as it may be large.

    Raises MoescopeError where there is none, where it is of another kind than KINDS, or where
    transformers is not installed.
    """
    folder = text_encoder_folder(path, key)
    kind = read_config(folder).get("model_type")
    if kind not in KINDS:
        raise MoescopeError(
            f"{folder} holds a model of kind {kind}, but a text encoder is needed: "
            f"{', '.join(KINDS)}"
        )
    transformers = library("transformers")
    tokenizer_folder = _tokenizer_folder(folder)
    with one_line(folder):
        module, info = transformers.AutoModelForTextEncoding.from_pretrained(
            folder,
            dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
            **loading(folder),
        )
        refuse_gaps(folder, info)
        module.eval().requires_grad_(False).to(device)
    with one_line(tokenizer_folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            tokenizer_folder, local_files_only=True
        )
    _refuse_strangers(tokenizer, tokenizer_folder, module.config.vocab_size)
    return TextEncoder(module, tokenizer)


def encode_captions(captions: Sequence[str], config: RunConfig, device: torch.device) -> Tensor:
    """Returns the vectors (B, data.num_text_tokens, model.text_width) of captions by the text
    encoder in data.text_encoder, zeros behind each end; fp32 on the CPU.

    Raises MoescopeError as `load_text_encoder`, and where its vectors do not fit the recipe. That
    it is the run's own, `of_run.with_encoder` makes sure.
    """
    d, width = config.data, config.model.text_width
    text_BST = torch.zeros(len(captions), d.num_text_tokens, width)
    if not any(captions):
        return text_BST
    folder = text_encoder_folder(config.data.text_encoder)
    encoder = load_text_encoder(str(folder), device)
    refuse_width(encoder.width, config, folder)
    for place, vectors_ST in enumerate(encoder.encode(captions, d.num_text_tokens)):
        # rounded as the shards hold them: a caption is told as it was in training
        text_BST[place, : len(vectors_ST)] = vectors_ST.half().float()
    return text_BST


def text_encoder_folder(path: str, key: str = "data.text_encoder") -> Path:
    """Finds a text encoder. Raises MoescopeError where there is none."""
    return model_folder(path, "text_encoder", key)


def refuse_width(width: int, config: RunConfig, folder: Path) -> None:
    """Raises MoescopeError where a text encoder's vectors do not fit the recipe."""
    if width != config.model.text_width:
        raise MoescopeError(
            f"the text encoder in {folder} has vectors of {width} values, but model.text_width is "
            f"{config.model.text_width}: --set model.text_width={width}"
        )


def _refuse_strangers(tokenizer: Any, folder: Path, num_words: int) -> None:
    """Raises MoescopeError where a tokenizer is not the encoder's."""
    if tokenizer.pad_token is None:
        raise MoescopeError(
            f"the tokenizer in {folder} has no padding: put the encoder's own there"
        )
    most = max(tokenizer.get_vocab().values(), default=0)
    if most >= num_words:
        raise MoescopeError(
            f"the tokenizer in {folder} has words up to number {most}, but the encoder knows "
            f"{num_words}: put the encoder's own there"
        )


def _tokenizer_folder(folder: Path) -> Path:
    """The encoder's own folder, or `tokenizer/` in it or beside it."""
    for place in (folder / "tokenizer", folder.parent / "tokenizer", folder):
        if any((place / name).is_file() for name in TOKENIZER_FILES):
            return place
    raise MoescopeError(
        f"{folder} has no tokenizer: put tokenizer.json or spiece.model there, or into "
        f"{folder.parent / 'tokenizer'}"
    )
