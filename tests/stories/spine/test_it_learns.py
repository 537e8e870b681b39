"""`tiny` learns from all of its input, and what it makes looks more like clips than noise does."""

import json
import subprocess
from pathlib import Path

import pytest
from torch import nn

from moescope.platform.frozen import changed
from moescope.platform.records import Run
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.data.batches import Batch, Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.evaluation.evaluate import Learned, evaluate
from moescope.trainer.evaluation.frechet import frechet_distance, random_features
from moescope.trainer.loop import Trainer
from moescope.trainer.model.make import make_model
from moescope.trainer.origin import load_weights
from moescope.trainer.recipes.stream import tiny
from moescope.trainer.run import train
from moescope.trainer.sampling.generate import Prompt, Sampling, generate
from moescope.trainer.sampling.sample_run import sample_run

pytestmark = pytest.mark.story

STEPS = 600
NUM_GENERATED = 24


class Trained:
    """A training of `tiny`, measured on held-out clips at step 50 and at its end."""

    def __init__(self, folder: Path) -> None:
        make_clips(folder / "clips", 200, seed=3)
        changes = {"data.folder": str(folder / "clips"), "data.validation_share": 0.12}
        self.config = changed(tiny(), {**changes, "steps": STEPS, "watch.probe_every": 0})
        self.settings = Settings(home=folder / "home", mlflow="off")
        index = find_clips(self.config.data.folder)
        with Batches(index, self.config.data, self.config.seed) as batches:
            self.held_out: Batch = batches.validation_batch(NUM_GENERATED)
        self.captions = [c.caption for c in index.clips if c.name in self.held_out.names]
        self.at: dict[int, Learned] = {}
        self.result = train(
            self.config, settings=self.settings, run_id="r", progress=False, on_step=self.measure
        )
        self.model = make_model(self.config)
        store = open_store(self.settings.store_url)
        try:
            load_weights(self.model, store, "r")
            self.run: Run = store.find_run("r")
            self.alerts = [a for a in store.alerts("r") if a.severity != "info"]
        finally:
            store.close()
        self.at[STEPS] = evaluate(self.model, self.held_out, self.config)

    def measure(self, trainer: Trainer) -> None:
        step = trainer.state.step
        if step in (0, 50) and step not in self.at:
            self.at[step] = evaluate(trainer.state.model, self.held_out, self.config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("learns"))


def test_the_loss_is_half_of_the_zero_models_and_lower_in_every_bin(trained: Trained) -> None:
    learned, early = trained.at[STEPS], trained.at[50]
    assert learned.below_zero_output >= 0.5
    # the flow's linear part knows something before any learning: that does not count
    assert learned.losses.total <= 0.5 * trained.at[0].losses.total
    assert (learned.losses.total_Q < early.losses.total_Q).all()


def test_captions_sound_and_pictures_of_other_clips_make_it_worse(trained: Trained) -> None:
    learned = trained.at[STEPS]
    assert learned.caption_effect >= 0.02
    assert learned.sound_effect >= 0.02
    assert learned.video_effect >= 0.02


def test_generated_clips_are_nearer_to_real_ones_than_those_of_step_0(trained: Trained) -> None:
    untrained = make_model(trained.config)
    real = random_features(trained.held_out.video_BCFHW, trained.held_out.mel_BNM)

    told = [Prompt(caption) for caption in trained.captions]

    def distance(model: nn.Module) -> float:
        made = generate(model, trained.config, told, 0, Sampling(16))
        return frechet_distance(real, random_features(made.video_BCFHW, made.mel_BNM))

    assert distance(trained.model) < distance(untrained)


def test_the_sampled_clip_is_an_mp4_that_plays(trained: Trained, tmp_path: Path) -> None:
    (path,) = sample_run(
        trained.settings, "r", ["noon: a ruby ball rises"], Sampling(8), 0, tmp_path
    )
    played = subprocess.run(
        ["ffprobe", "-v", "error", "-show_streams", "-of", "json", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    streams = json.loads(played.stdout)["streams"]
    assert {s["codec_type"]: s["codec_name"] for s in streams} == {"video": "h264", "audio": "aac"}
    decoded = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(path), "-f", "null", "-"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert decoded.stderr == ""


def test_a_healthy_training_raises_no_warning(trained: Trained) -> None:
    assert trained.result.status == "finished"
    assert [(a.rule, a.message) for a in trained.alerts] == []
