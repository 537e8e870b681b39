"""What clips were encoded with, and whether a run asks for the same."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ...platform.errors import MoescopeError
from ...platform.frozen import Frozen
from ..config import DataConfig, RunConfig
from .classes import Given

ENCODED_KEYS = (
    "num_frames",
    "frames_per_s",
    "height",
    "width",
    "num_mels",
    "num_mel_steps",
    "latent_size",
    "latent_frames",
    "latent_channels",
    "captions",
    "num_text_tokens",
    "flip_share",
)
"""Keys of the data that are fixed once it is encoded."""


class EncoderUsed(Frozen):
    """A VAE or text encoder as it was when the folder was encoded."""

    path: str
    fingerprint: str
    """Of its configuration and weights."""
    width: int
    """Latent channels, or the width of the text's vectors."""


class Encoding(Frozen):
    """What was asked of an encoding; an encoding that goes on must be asked the same."""

    version: Literal[1] = 1
    data: DataConfig
    """`windows_per_clip` of each clip are stored; `folder` is where the clips were."""
    seed: int
    clips: str
    """Fingerprint of the clips."""
    num_shards: int
    clips_per_shard: int
    vae: EncoderUsed
    text_encoder: EncoderUsed | None


class EncodedClip(Frozen):
    """A row of a shard."""

    name: str
    caption: str
    folder: str
    duration_s: float
    frames_per_s: float
    has_sound: bool
    class_name: str
    class_number: int
    checksums: tuple[int, ...]
    """CRC-32 of each window's latents and mel."""
    text_checksum: int | None
    """CRC-32 of the caption's vectors; None without a text encoder."""

    @property
    def given(self) -> Given:
        return Given(self.class_name, self.class_number)


class ShardRecord(Frozen):
    sha256: str
    num_bytes: int
    clips: tuple[EncodedClip, ...]
    passed_over: tuple[tuple[str, str], ...]
    """(name, reason) of clips that could not be decoded."""


def fingerprint(encoding: Encoding, records: Sequence[ShardRecord]) -> str:
    """Changes when anything is encoded otherwise."""
    digest = hashlib.blake2b(encoding.model_dump_json().encode(), digest_size=16)
    for record in records:
        digest.update(record.sha256.encode())
    return digest.hexdigest()


def refuse_other_encoding(folder: Path, encoding: Encoding | None, config: RunConfig) -> None:
    """Raises MoescopeError where a run asks for other data than the folder holds, with the keys
    that make it fit. encoding: None where it holds clips."""
    d = config.data
    if encoding is None:
        if d.latents == "vae":
            raise MoescopeError(
                f"data.latents is vae, but {folder} holds clips: make latents of them with "
                f"`moescope data encode {folder} DIR --vae PATH`, and name DIR as data.folder"
            )
        return
    asked, there = d.model_dump(), encoding.data.model_dump()
    others = [key for key in ("latents", *ENCODED_KEYS) if asked[key] != there[key]]
    if others:
        told = ", ".join(f"data.{key} {there[key]} (not {asked[key]})" for key in others)
        fix = " ".join(f"--set data.{key}={there[key]}" for key in others)
        raise MoescopeError(f"{folder} is encoded with {told}: {fix}")
    stored = encoding.data.windows_per_clip
    if d.windows_per_clip > stored:
        raise MoescopeError(
            f"{folder} holds {stored} windows of each clip, but data.windows_per_clip is "
            f"{d.windows_per_clip}: --set data.windows_per_clip={stored}, or encode anew with more"
        )
    used = encoding.text_encoder
    if used is not None and used.width != config.model.text_width:
        raise MoescopeError(
            f"{folder} has captions of {used.width} values a token, but model.text_width is "
            f"{config.model.text_width}: --set model.text_width={used.width}"
        )


def refuse_other_models(encoding: Encoding, before: Encoding, run_name: str) -> None:
    """Raises MoescopeError where weights that were trained on one VAE's latents, or one text
    encoder's vectors, would go on with another one's."""
    for what, there, known in (
        ("VAE", encoding.vae, before.vae),
        ("text encoder", encoding.text_encoder, before.text_encoder),
    ):
        if there is None or known is None or there.fingerprint == known.fingerprint:
            continue
        raise MoescopeError(
            f"the data was encoded with the {what} in {there.path}, but run {run_name} was trained "
            f"on that in {known.path}, and knows no other: encode with that one"
        )
