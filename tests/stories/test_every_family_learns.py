"""Each family's toy learns from files on disk: 200 steps through the whole trainer."""

from pathlib import Path

import pytest

from moescope.platform.settings import Settings
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.latents import seen
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.evaluate import ZeroFlow, probe, probe_passes
from moescope.trainer.loop import Trainer
from moescope.trainer.recipes import recipe
from moescope.trainer.run import train

pytestmark = pytest.mark.story

STEPS = 200
NUM_HELD_OUT = 16
LEAST = 0.30
"""Share by which the loss must be under that of the model that answers zero."""
RECIPES = (
    "video_moe_tiny",
    "latent_moe_tiny",
    "dsmoe_tiny",
    "jitmoe_tiny",
    "wan_token_moe_tiny",
    "wan22_two_expert_tiny",
    "noise_experts_tiny",
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_clips(folder, 160, seed=3, is_by_class=True)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_its_loss_falls_well_below_that_of_answering_zero(
    name: str, clips: Path, tmp_path: Path
) -> None:
    changes = {
        "data.folder": str(clips),
        "data.validation_share": NUM_HELD_OUT / 160,
        "steps": STEPS,
        "watch.probe_every": 0,
    }
    config = recipe(name, changes)
    last: list[Trainer] = []

    def on_step(trainer: Trainer) -> None:
        last[:] = [trainer]

    settings = Settings(home=tmp_path / "home", mlflow="off")
    result = train(config, settings=settings, progress=False, on_step=on_step)
    assert (result.status, result.step) == ("finished", STEPS)
    state, device = last[0].state, last[0].device
    with Batches(find_clips(clips), config.data, config.seed) as batches:
        held_out = seen(batches.validation_batch(NUM_HELD_OUT), config, device)
    passes = probe_passes(config, held_out)
    zero = probe(ZeroFlow(), held_out, passes, config)
    with state.ema.swapped_in():
        learned = probe(state.model, held_out, passes, config)
    share = 1 - learned.total / zero.total
    assert share >= LEAST, f"{learned.total:.3f} is {share:.1%} under {zero.total:.3f}"
