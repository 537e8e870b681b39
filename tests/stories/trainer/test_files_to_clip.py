"""From files to a clip by way of latents: encoded with a VAE and a text encoder from a folder,
killed on the way; trained on; sampled with guidance; decoded to an mp4 with sound.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.data.headers import read_header
from moescope.trainer.data.latents import seen
from moescope.trainer.evaluation.evaluate import evaluate
from moescope.trainer.model.make import make_model
from moescope.trainer.origin import load_weights
from moescope.trainer.run import open_trainer

pytestmark = pytest.mark.story

NUM_CLIPS, STEPS = 24, 120
MOESCOPE = [sys.executable, "-m", "moescope.cli"]
SHAPE = [
    *("data.num_frames=9", "data.height=16", "data.width=16", "data.validation_share=0.25"),
    *("data.latent_size=4", "data.latent_frames=4", "data.latent_channels=4"),
    *("data.num_text_tokens=24", "model.text_width=16"),
]
FIT = ["model.patch_frames=1", "model.patch_size=2", "model.width=64", "model.layers=4"]


def sets(*texts: str) -> list[str]:
    return [part for text in texts for part in ("--set", text)]


def test_files_become_latents_a_model_and_a_clip_with_sound(
    save_vae: Callable[..., Path], save_text: Callable[..., Path], tmp_path: Path
) -> None:
    models, clips, shards = tmp_path / "models", tmp_path / "clips", tmp_path / "shards"
    save_vae(models / "vae")
    save_text(models)
    environment = {**os.environ, "MOESCOPE_HOME": str(tmp_path / "home"), "MOESCOPE_MLFLOW": "off"}

    def moescope(*arguments: str | Path) -> str:
        done = subprocess.run(
            [*MOESCOPE, *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    moescope("data", "make-clips", clips, "--num-clips", str(NUM_CLIPS))
    encode = ["data", "encode", clips, shards, "--vae", models, "--text-encoder", models]
    encode += ["--clips-per-shard", "4", *sets(*SHAPE, *FIT, "data.windows_per_clip=2")]
    process = subprocess.Popen([*MOESCOPE, *map(str, encode)], env=environment)
    deadline_s = time.monotonic() + 120
    while not list(shards.glob("shard-*.json")) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    process.kill()
    process.wait()
    num_before = len(list(shards.glob("shard-*.json")))
    assert 1 <= num_before < NUM_CLIPS // 4

    said = moescope(*encode)
    assert f"24 clips, 48 windows, 6 shards, {num_before} of them written before" in said
    assert "24 usable clips" in moescope("data", "check", shards)

    of_shards = ["data.latents=vae", "data.captions=encoder", *SHAPE, *FIT]
    train = ["train", "tiny", "--data", shards, "--name", "latent", "--steps", str(STEPS)]
    moescope(*train, *sets(*of_shards))
    asked = ["--prompt", "a red disc", "--guidance", "3", "--steps", "8", "--to", tmp_path / "made"]
    made = Path(moescope("sample", "latent", *asked).strip())
    header = read_header(made)
    assert made.suffix == ".mp4"
    assert header.has_sound
    assert header.duration_s == pytest.approx(9 / 8, abs=0.1)

    settings = Settings(home=tmp_path / "home", mlflow="off")
    store = open_store(settings.store_url)
    try:
        run = store.find_run("latent")
        config = RunConfig.model_validate(run.config)
        model = make_model(config)
        load_weights(model, store, run.id)
        assert [alert.rule for alert in store.alerts(run.id) if alert.severity != "info"] == []
    finally:
        store.close()
    with open_trainer(config, Settings(home=tmp_path / "other", mlflow="off")) as trainer:
        held_out = seen(trainer.batches.validation_batch(6), config, torch.device("cpu"))
    learned = evaluate(model, held_out, config)
    assert learned.below_zero_output > 0.3
