"""Clips and pictures that a run's model generates, written as mp4 with sound or as png."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...platform.errors import MoescopeError, did_you_mean
from ...platform.records import Run
from ...platform.settings import Settings
from ...platform.store import open_store
from ..config import RunConfig
from ..data.classes import read_classes
from ..data.clips import find_clips
from ..data.decode import read_start
from ..data.headers import UnreadableClip
from ..data.latents import decode, encode
from ..data.order import split
from ..data.sound import SAMPLE_RATE_HZ, sound_of
from ..data.write_clip import write_clip, write_picture
from ..encoders.of_run import with_encoder
from ..encoders.text import encode_captions
from ..encoders.vae import vae_of
from ..model.make import Network, make_model
from ..model.noise_experts import NoiseExperts
from ..origin import load_weights
from ..stored_config import stored_config
from .generate import Generated, Prompt, Sampling, generate
from .offload import offloaded

# C channels  F frames  H, W pixels  N mels  M mel steps

NUM_FROM_DATA = 4
WRITTEN_SIDE = 128
"""Pixels that the shorter side of a written clip has at the least: thumbnails of 32 pixels are hard
to see, so that each becomes a square of 4 x 4."""


def sample_run(
    settings: Settings,
    name_or_id: str,
    prompts: Sequence[str],
    sampling: Sampling,
    seed: int,
    to: Path | None,
    *,
    classes: Sequence[str] = (),
    reference: Path | None = None,
    vae: str = "",
    text_encoder: str = "",
    offload: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Generates one clip per prompt or class with the run's averaged weights; where none is given,
    for captions of a few held-out clips, or a few classes of the data.

    classes: names or numbers. reference: a picture, or a clip whose first frame is meant; scaled
    and cropped in the middle. vae, text_encoder: their folders, where they are not where the run
    found them. offload: of experts by noise level only the one at work is on the
    GPU. tell: is told what is done otherwise than asked. Returns the files, in the run's `samples`
    folder unless `to` names another. Raises MoescopeError where the run has no usable checkpoint,
    where nothing can be told of a clip, and on what the model has no use for.
    """
    store = open_store(settings.store_url)
    try:
        run = store.find_run(name_or_id)
        config = stored_config(run.config, run.name)
        config = with_encoder(config, run, "vae", vae)
        config = with_encoder(config, run, "text_encoder", text_encoder)
        _refuse_what_is_not_read(config, run, prompts, classes, reference)
        if sampling.guidance is not None and not (config.has_text or config.model.num_classes):
            raise MoescopeError(
                f"--guidance does not go with run {run.name}: its model reads neither captions nor "
                "classes, so that there is nothing to be guided by"
            )
        if offload and config.noise_experts.num_experts == 1:
            raise MoescopeError(
                f"--offload does not go with run {run.name}: one network answers at all noise "
                "levels, so that none of it is ever idle"
            )
        model = make_model(config)
        load_weights(model, store, run.id)
    finally:
        store.close()
    first_CHW = _reference(reference, config) if reference is not None else None
    named = asked(config, run, prompts, classes)
    folder = to or Path(run.folder) / "samples"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MoescopeError(f"--to {folder} cannot be written: {error.strerror}") from None
    told = [prompt._replace(reference_CHW=first_CHW) for _, prompt in named]
    if config.data.latents == "vae":
        # what cannot be decoded need not be made
        vae_of(config, torch.device("cpu"))
    with _at_work(model, config, offload, tell):
        made = generate(model, config, told, seed, sampling)
    return write_made(folder, named, made, seed, config)


def write_made(
    folder: Path,
    named: Sequence[tuple[str, Prompt]],
    made: Generated,
    seed: int,
    config: RunConfig,
) -> list[Path]:
    """Writes what was made into a folder that is there, with its prompt beside each file; returns
    the clips and pictures."""
    video_BCFHW = decode(made.video_BCFHW, config).cpu()
    mel_BNM = made.mel_BNM.cpu()
    paths = []
    for i, (name, _) in enumerate(named):
        place = folder / f"{_file_name(name)}-seed{seed}-{i}"
        paths.append(_write(place, video_BCFHW[i], mel_BNM[i], config))
        paths[-1].with_suffix(".txt").write_text(name)
    return paths


@contextmanager
def _at_work(
    model: Network, config: RunConfig, offload: bool, tell: Callable[[str], None]
) -> Iterator[None]:
    """Brings the model to the device on which it makes clips: the run's, where there is one."""
    is_on_gpu = torch.cuda.is_available() and config.device != "cpu"
    device = torch.device("cuda" if is_on_gpu else "cpu")
    if not offload or not is_on_gpu:
        if offload:
            tell("--offload does nothing here: the clips are made on the CPU")
        model.to(device)
        yield
        return
    assert isinstance(model, NoiseExperts), type(model)
    with offloaded(model, device):
        yield


def _refuse_what_is_not_read(
    config: RunConfig,
    run: Run,
    prompts: Sequence[str],
    classes: Sequence[str],
    reference: Path | None,
) -> None:
    has_classes = config.model.family == "class"
    told = (
        "a class, --class"
        if has_classes
        else "a caption, --prompt"
        if config.has_text
        else "nothing"
    )
    for option, is_given, is_read, why in (
        ("--prompt", prompts, config.has_text, "its model reads no captions"),
        ("--class", classes, has_classes, "its model knows no classes"),
        ("--reference", reference, config.model.has_reference, "model.has_reference is false"),
    ):
        if is_given and not is_read:
            raise MoescopeError(
                f"{option} does not go with run {run.name}: {why}; it is told {told}"
            )


def asked(
    config: RunConfig, run: Run, prompts: Sequence[str], classes: Sequence[str]
) -> list[tuple[str, Prompt]]:
    """Returns a name and a prompt for each clip to be made; where none is named, for captions of a
    few held-out clips, or a few classes of the data. Raises MoescopeError on an unknown class, and
    where there is nothing to tell."""
    if config.model.family == "class":
        known = read_classes(Path(run.folder)) or find_clips(config.data.folder).classes
        asked = classes or list(known)[:NUM_FROM_DATA]
        return [_of_class(text, known) for text in asked]
    if not config.has_text:
        return [("clip", Prompt())] * NUM_FROM_DATA
    captions = prompts or _captions(config, run)
    if config.data.captions == "bytes":
        return [(caption, Prompt(caption)) for caption in captions]
    text_BST = encode_captions(captions, config, torch.device("cpu"))
    return [
        (caption, Prompt(caption, text_ST=text_ST))
        for caption, text_ST in zip(captions, text_BST, strict=True)
    ]


def _of_class(text: str, known: Mapping[str, int]) -> tuple[str, Prompt]:
    """Finds a class by its name, else by its number; one that no clip was of was not learned."""
    names = {number: name for name, number in known.items()}
    name = names.get(int(text)) if text.isdecimal() and text not in known else text
    if name is None or name not in known:
        there = ", ".join(f"{name or 'no name'} ({k})" for name, k in list(known.items())[:8])
        more = ", ..." if len(known) > 8 else ""
        raise MoescopeError(
            f"unknown class {text}{did_you_mean(text, known)} (there are: {there}{more})"
        )
    return name or "class", Prompt(label=known[name])


def _captions(config: RunConfig, run: Run) -> list[str]:
    try:
        clips = find_clips(config.data.folder).clips
    except MoescopeError as error:
        raise MoescopeError(
            f"give --prompt TEXT, as there are no captions to take from the run's data ({error})"
        ) from None
    training, held_out = split(clips, config.data.validation_share)
    captions = [clip.caption for clip in held_out or training if clip.caption]
    if not captions:
        raise MoescopeError(f"the clips of run {run.name} have no captions: give --prompt TEXT")
    return captions[:NUM_FROM_DATA]


def _reference(path: Path, config: RunConfig) -> Tensor:
    """Returns the first frame as the network sees frames; of latents of several frames, the first
    ones.
    """
    d = config.data
    num_frames = d.latent_frames if d.latents == "cosine" else 1
    try:
        start_CFHW = read_start(path, d, num_frames)
    except UnreadableClip as reason:
        raise MoescopeError(f"--reference {path}: {reason}") from None
    video_BCFHW = torch.from_numpy(start_CFHW)[None].float().div_(127.5).sub_(1.0)
    return (video_BCFHW if d.latents == "none" else encode(video_BCFHW, config))[0, :, 0]


def _write(place: Path, video_CFHW: Tensor, mel_NM: Tensor, config: RunConfig) -> Path:
    """Writes a picture where there is one frame, else a clip; returns the file."""
    d = config.data
    levels_CFHW = ((video_CFHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    video_FHWC = _enlarged(levels_CFHW.permute(1, 2, 3, 0).cpu().numpy())
    if len(video_FHWC) == 1:
        path = place.with_name(f"{place.name}.png")
        write_picture(path, video_FHWC[0])
        return path
    path = place.with_name(f"{place.name}.mp4")
    span_s = d.num_frames / d.frames_per_s
    audio_A = sound_of(mel_NM.float().cpu().numpy(), span_s) if config.has_audio else None
    write_clip(path, video_FHWC, audio_A, SAMPLE_RATE_HZ, d.frames_per_s)
    return path


def _enlarged(video_FHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = max(1, WRITTEN_SIDE // min(video_FHWC.shape[1:3]))
    return video_FHWC.repeat(scale, axis=1).repeat(scale, axis=2)


def _file_name(name: str) -> str:
    # letters of every script; a name on disk has at most 255 bytes
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")[:48] or "clip"
