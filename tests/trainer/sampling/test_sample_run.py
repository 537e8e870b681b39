"""Clips are made of what a model is told by: captions, classes, a first frame, or nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.data.headers import read_header
from moescope.trainer.data.latents import decode
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.data.pictures import read_picture
from moescope.trainer.data.write_clip import write_picture
from moescope.trainer.run import train
from moescope.trainer.sampling import sample_run as module
from moescope.trainer.sampling.generate import Generated, Prompt, Sampling, generate
from moescope.trainer.sampling.sample_run import sample_run

LATENTS: dict[str, Any] = {
    "data.latents": "cosine",
    "data.latent_size": 4,
    "data.latent_frames": 2,
    "data.latent_channels": 8,
    "model.patch_size": 2,
    "model.patch_frames": 1,
}

Made = Callable[..., list[Path]]
Kept = list[tuple[list[Prompt], Generated]]


@pytest.fixture
def made(small: RunConfig, settings: Settings, tmp_path: Path) -> Made:
    """Trains two steps of `small` with these changes, once, and makes clips with the weights."""
    homes: set[Path] = set()

    def run(changes: dict[str, Any], *prompts: str, **options: Any) -> list[Path]:
        if settings.home not in homes:
            config = changed(small, {"steps": 2, **changes})
            train(config, settings=settings, run_id="r", progress=False)
            homes.add(settings.home)
        return sample_run(settings, "r", prompts, Sampling(2), 0, tmp_path / "made", **options)

    return run


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    """What the model was told and made, beside the files; it is the real one that makes it."""
    seen: Kept = []

    def watched(model: Any, config: RunConfig, prompts: list[Prompt], *a: Any, **k: Any) -> Any:
        seen.append((prompts, generate(model, config, prompts, *a, **k)))
        return seen[-1][1]

    monkeypatch.setattr(module, "generate", watched)
    return seen


def frames_of(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("changes", [{}, LATENTS], ids=["pixels", "latents"])
def test_a_clip_of_a_caption_has_the_frames_and_the_sound_of_a_sample(
    made: Made, kept: Kept, changes: dict[str, Any], small: RunConfig
) -> None:
    (path,) = made(changes, "noon: a ruby ball rises")
    assert path.name == "noon-a-ruby-ball-rises-seed0-0.mp4"
    assert path.with_suffix(".txt").read_text() == "noon: a ruby ball rises"
    assert read_header(path).has_sound
    frames_FHWC = frames_of(path)
    # 16 pixels are shown 8 times larger
    assert frames_FHWC.shape == (4, 128, 128, 3)
    ((_, generated),) = kept
    video_BCFHW = decode(generated.video_BCFHW, changed(small, changes))
    wanted_FHWC = (video_BCFHW[0].clamp(-1, 1).permute(1, 2, 3, 0) + 1) * 127.5
    # the middle of each square: colours are blurred by the codec
    off = np.abs(frames_FHWC[:, 4::8, 4::8].astype(float) - wanted_FHWC.numpy())
    assert off.mean() < 12


def test_a_clip_of_a_model_without_sound_and_captions_is_silent(made: Made) -> None:
    silent = {"data.num_mel_steps": 0, "data.num_text_bytes": 0, "watch.probe_every": 1}
    paths = made(silent)
    assert [path.name for path in paths] == [f"clip-seed0-{i}.mp4" for i in range(4)]
    assert not read_header(paths[0]).has_sound
    with pytest.raises(
        MoescopeError, match="--prompt does not go with run tiny-r: its model reads"
    ):
        made({}, "a caption")


def test_pictures_of_classes_are_png(
    made: Made, kept: Kept, ways: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    make_clips(tmp_path / "clips", 12, seed=2, size=16, is_by_class=True, are_pictures=True)
    dsmoe = {**ways["dsmoe"], "data.folder": str(tmp_path / "clips")}
    paths = made(dsmoe, classes=["haze", "1", "haze"])
    assert [path.name for path in paths] == [
        "haze-seed0-0.png",
        "fire-seed0-1.png",
        "haze-seed0-2.png",
    ]
    assert read_picture(paths[0]).to_ndarray(format="rgb24").shape == (128, 128, 3)
    assert [prompt.label for prompt in kept[0][0]] == [3, 1, 3]
    # the classes of the data where none is named; the run remembers them
    (tmp_path / "clips").rename(tmp_path / "gone")
    assert [path.stem.partition("-")[0] for path in made(dsmoe)] == ["dusk", "fire", "glow", "haze"]
    for options, expected in (
        ({"classes": ["hazes"]}, r"unknown class hazes; did you mean haze\? \(there are: dusk"),
        ({"classes": ["5"]}, r"unknown class 5 \(there are: dusk \(0\), fire \(1\)"),
        ({"reference": paths[0]}, "--reference does not go .* model.has_reference is false"),
    ):
        with pytest.raises(MoescopeError, match=expected):
            made(dsmoe, **options)
    with pytest.raises(MoescopeError, match=r"--prompt does not go .* told a class, --class"):
        made(dsmoe, "a caption")


@pytest.mark.parametrize("changes", [{}, LATENTS], ids=["pixels", "latents"])
def test_a_reference_is_seen_as_training_sees_a_first_frame(
    made: Made, kept: Kept, tmp_path: Path, changes: dict[str, Any], small: RunConfig
) -> None:
    picture_HWC = np.full((32, 64, 3), 40, dtype=np.uint8)
    # only the middle is seen: scaled to 16 x 32, it is cut to 16 x 16
    picture_HWC[:, 16:48] = (200, 100, 50)
    write_picture(tmp_path / "start.png", picture_HWC)
    made({**changes, "model.has_reference": True}, "a", "b", reference=tmp_path / "start.png")
    config = changed(small, {**changes, "model.has_reference": True})
    for prompt in kept[0][0]:
        assert prompt.reference_CHW is not None
        channels, _, height, width = config.video_shape
        assert prompt.reference_CHW.shape == (channels, height, width)
        pixels = decode(prompt.reference_CHW[None, :, None], config)[0, :, 0]
        wanted = torch.tensor([200.0, 100.0, 50.0]).view(3, 1, 1).expand(3, 16, 16) / 127.5 - 1
        # a picture of one colour: nothing is lost in the latents; scaling rounds by a level
        torch.testing.assert_close(pixels, wanted, atol=0.02, rtol=0)
    made(changes, "a")
    assert [prompt.reference_CHW for prompt in kept[1][0]] == [None]
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(MoescopeError, match=r"--reference .*words\.png: not a jpg, png or webp"):
        made(changes, "a", reference=tmp_path / "words.png")


def test_a_model_of_captions_knows_no_classes(made: Made) -> None:
    with pytest.raises(MoescopeError, match=r"--class does not go .* told a caption, --prompt"):
        made({}, classes=["ring"])
