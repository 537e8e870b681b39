"""A run is evaluated by one command: losses, figures of what it makes, and what others need."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from moescope.cli import app
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.data.batches import Batch, Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.latents import seen
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.evaluation import evaluate_run as module
from moescope.trainer.evaluation.evaluate import probe, probe_passes
from moescope.trainer.evaluation.evaluate_run import Looks, evaluate_run
from moescope.trainer.model.make import make_model
from moescope.trainer.origin import load_weights
from moescope.trainer.sampling.generate import Generated, Prompt, Sampling

CPU = torch.device("cpu")
LATENTS: dict[str, Any] = {
    "data.latents": "cosine",
    "data.latent_size": 4,
    "data.latent_frames": 2,
    "data.latent_channels": 8,
    "model.patch_size": 2,
    "model.patch_frames": 1,
}
TOLD_NOTHING = {"data.num_mel_steps": 0, "data.num_text_bytes": 0, "data.validation_share": 0.0}
Trained = Callable[..., Settings]


@pytest.fixture
def looks(networks: Path) -> Looks:
    return Looks(networks / "images.pt", networks / "videos.pt", networks / "clip")


def held_out(config: RunConfig, num_clips: int) -> tuple[Batch, list[str]]:
    """Returns held-out clips as the network sees them, and their captions."""
    index = find_clips(config.data.folder)
    with Batches(index, config.data, config.seed, ahead=0) as batches:
        batch = seen(batches.validation_batch(num_clips), config, CPU)
    captions = {clip.name: clip.caption for clip in index.clips}
    return batch, [captions[name] for name in batch.names]


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Prompt], int]]:
    """A model that makes the very clips that were held out; keeps what it was told and the seed."""
    told: list[tuple[list[Prompt], int]] = []
    batches: list[Batch] = []
    real = module._held_out

    def kept(*arguments: Any) -> Any:
        found = real(*arguments)
        batches.append(found[0])
        return found

    def copy(model: Any, config: RunConfig, prompts: list[Prompt], seed: int, *_: Any) -> Generated:
        first = sum(len(before) for before, _ in told)
        told.append((prompts, seed))
        rows = slice(first, first + len(prompts))
        return Generated(batches[0].video_BCFHW[rows], batches[0].mel_BNM[rows])

    monkeypatch.setattr(module, "_held_out", kept)
    monkeypatch.setattr(module, "generate", copy)
    return told


def test_a_model_that_makes_the_held_out_clips_is_no_way_from_them(
    trained: Trained,
    copied: list[tuple[list[Prompt], int]],
    looks: Looks,
    small: RunConfig,
) -> None:
    settings = trained(**LATENTS)
    found = evaluate_run(settings, "r", 6, Sampling(2), 0, looks)
    figures = {figure.name: figure for figure in found.compared.figures}
    assert list(figures) == [
        "FID",
        "IS",
        "FVD",
        "temporal flickering",
        "CLIP consistency",
        "CLIPSIM",
    ]
    assert found.compared.missing == {}
    assert [figures[name].made for name in ("FID", "FVD")] == pytest.approx([0, 0], abs=1e-6)
    for name in ("IS", "temporal flickering", "CLIP consistency", "CLIPSIM"):
        assert figures[name].made == figures[name].held_out, name
        assert figures[name].num_frames == 4 * figures[name].num_clips
    # told the captions of the held-out clips, each part with noise of its own
    config = changed(small, {"data.validation_share": 0.3, **LATENTS})
    _, captions = held_out(config, 6)
    assert [prompt.caption for prompts, _ in copied for prompt in prompts] == captions
    assert len({seed for _, seed in copied}) == len(copied) == 2


def test_losses_are_those_of_a_probe_on_the_averaged_weights(
    trained: Trained, small: RunConfig
) -> None:
    settings = trained()
    found = evaluate_run(settings, "r", 6, Sampling(1), 0, Looks())
    config = changed(small, {"data.validation_share": 0.3})
    batch, _ = held_out(config, 6)
    model = make_model(config)
    with open_store(settings.store_url) as store:
        load_weights(model, store, "r")
    expected = probe(model, batch, probe_passes(config, batch), config)
    np.testing.assert_allclose(found.learned.losses.by_bin_MQ, expected.by_bin_MQ, rtol=1e-5)
    assert (found.num_clips, found.are_held_out, found.weights) == (
        6,
        True,
        "weights of run tiny-r, step 2",
    )
    assert list(found.noise_from_Q) == sorted(found.noise_from_Q)
    assert (found.noise_from_Q[0], found.noise_to) == (0.0, 1.0)


def test_what_is_not_computed_says_what_would_give_it(trained: Trained, networks: Path) -> None:
    found = evaluate_run(trained(), "r", 3, Sampling(1), 0, Looks())
    assert [figure.name for figure in found.compared.figures] == ["temporal flickering"]
    assert found.compared.missing == {
        "FID": "give --image-features PATH",
        "IS": "give --image-features PATH",
        "FVD": "give --video-features PATH",
        "CLIP consistency": "give --clip PATH",
        "CLIPSIM": "give --clip PATH",
    }
    # one clip: no distance between single points; of as few, figures are not to be trusted
    looks = Looks(networks / "images.pt", networks / "videos.pt")
    one = evaluate_run(trained(), "r", 1, Sampling(1), 0, looks)
    assert one.compared.missing["FVD"].startswith("a distance needs two clips")
    notes = {figure.name: figure.note for figure in one.compared.figures}
    assert notes["FID"] == "biased upwards: 1 clip, 6 features; compare only with as many clips"
    assert notes["IS"].startswith("biased downwards: 1 clip, 5 classes")
    assert notes["temporal flickering"] == ""


def test_pictures_of_classes_are_made_of_the_held_out_ones_classes(
    trained: Trained,
    copied: list[tuple[list[Prompt], int]],
    ways: dict[str, dict[str, Any]],
    networks: Path,
    tmp_path: Path,
    small: RunConfig,
) -> None:
    make_clips(tmp_path / "clips", 16, seed=2, size=16, is_by_class=True, are_pictures=True)
    dsmoe = {**ways["dsmoe"], "data.folder": str(tmp_path / "clips")}
    settings = trained(**dsmoe)
    found = evaluate_run(settings, "r", 4, Sampling(1), 0, Looks(networks / "images.pt"))
    figures = {figure.name: figure for figure in found.compared.figures}
    assert list(figures) == ["FID", "IS"]
    assert figures["FID"].made == pytest.approx(0.0, abs=1e-6)
    assert (figures["FID"].num_clips, figures["FID"].num_frames) == (4, 4)
    assert found.compared.missing == {
        "FVD": "the clips have one frame",
        "temporal flickering": "the clips have one frame",
        "CLIP consistency": "the clips have one frame",
        "CLIPSIM": "the model reads no captions",
    }
    batch, _ = held_out(changed(small, {"data.validation_share": 0.3, **dsmoe}), 4)
    assert [p.label for prompts, _ in copied for p in prompts] == batch.label_B.tolist()
    assert len(set(batch.label_B.tolist())) > 1
    for field, option in (("video_features", "--video-features"), ("clip", "--clip")):
        with pytest.raises(MoescopeError, match=f"{option} does not go with run tiny-r: its"):
            evaluate_run(settings, "r", 4, Sampling(1), 0, Looks(**{field: networks}))


def test_options_without_use_and_missing_data_are_refused(
    trained: Trained, looks: Looks, tmp_path: Path
) -> None:
    silent = trained(**TOLD_NOTHING)
    for asked, given, expected in (
        (Sampling(1, guidance=3.0), Looks(), "--guidance does not go with run tiny-r"),
        (Sampling(1), looks, "--clip does not go with run tiny-r: its model reads no captions"),
    ):
        with pytest.raises(MoescopeError, match=expected):
            evaluate_run(silent, "r", 2, asked, 0, given)
    with pytest.raises(MoescopeError, match="--vae does not go with run tiny-r"):
        evaluate_run(silent, "r", 2, Sampling(1), 0, Looks(), vae=str(tmp_path))
    with pytest.raises(MoescopeError, match=r"--video-features .*gone: there is no such file"):
        evaluate_run(
            trained(), "r", 2, Sampling(1), 0, looks._replace(video_features=tmp_path / "gone")
        )


@pytest.fixture
def moescope() -> Callable[..., Result]:
    def run(settings: Settings, *words: str) -> Result:
        home = {"MOESCOPE_HOME": str(settings.home), "MOESCOPE_MLFLOW": "off"}
        return CliRunner().invoke(app, ["evaluate", "r", *words], env=home)

    return run


def test_the_command_prints_tables_and_json(
    trained: Trained, moescope: Callable[..., Result], looks: Looks
) -> None:
    options = ["--num-clips", "6", "--steps", "2", "--image-features", str(looks.image_features)]
    shown = moescope(trained(), *options, "--clip", str(looks.clip))
    assert shown.exit_code == 0, shown.output
    assert "run tiny-r, weights of run tiny-r, step 2: 6 clips held out, and as many made" in (
        shown.stdout
    )
    for words in ("noise levels", "0.955 to 1.000", "CLIPSIM", "more loss with another clip's"):
        assert words in shown.stdout
    assert "FVD: not computed, give --video-features PATH" in shown.stdout
    found = moescope(trained(), *options, "--clip", str(looks.clip), "--json")
    value = json.loads(found.stdout)
    assert value["num_clips"] == 6
    assert len(value["loss_by_noise_level"]) == 8
    total = np.mean([row["total"] for row in value["loss_by_noise_level"]])
    assert value["loss"]["total"] == pytest.approx(total)
    figures = {figure["name"]: figure for figure in value["figures"]}
    assert figures["FID"]["made"] > 0
    assert -1 <= figures["CLIPSIM"]["made"] <= 1
    assert value["not_computed"] == {"FVD": "give --video-features PATH"}


def test_the_command_tells_a_mistake_on_one_line_before_anything_is_made(
    trained: Trained, moescope: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("clips are made although they cannot be looked at")

    monkeypatch.setattr(module, "generate", never)
    found = moescope(trained(), "--image-features", __file__)
    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1
    assert "is no TorchScript, as torch.jit.save writes it" in found.stderr


def test_a_run_that_holds_nothing_out_says_so(
    trained: Trained, moescope: Callable[..., Result]
) -> None:
    found = moescope(trained(**TOLD_NOTHING), "--num-clips", "2", "--steps", "1")
    assert "2 clips that it was TRAINED ON, since none is held out" in found.stdout
    assert "below the loss of answering zero" in found.stdout
    # nothing of it could be another clip's
    assert "more loss" not in found.stdout
    assert "loss, audio" not in found.stdout
