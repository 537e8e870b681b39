"""The toys of the wan family learn from pictures and captions in 200 steps, without an alert."""

from pathlib import Path

import pytest

from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.data.latents import seen
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.evaluate import evaluate
from moescope.trainer.recipes import recipe
from moescope.trainer.run import open_trainer

pytestmark = pytest.mark.story


@pytest.mark.parametrize("name", ["wan_tiny", "wan_token_moe_tiny"])
def test_it_learns_from_pictures_and_captions(name: str, tmp_path: Path) -> None:
    make_clips(tmp_path / "clips", 96, seed=1)
    changes = {"data.folder": str(tmp_path / "clips"), "data.validation_share": 0.15}
    config = changed(recipe(name), changes)
    assert config.steps == 200
    settings = Settings(home=tmp_path / "home", mlflow="off")
    with open_trainer(config, settings, run_id="r") as trainer:
        assert trainer.train() == "finished"
        held_out = seen(trainer.batches.validation_batch(12), config, trainer.device)
        learned = evaluate(trainer.state.model, held_out, config)
    # measured: 0.63 and 0.64 below the model that answers zero; 0.14 and 0.13 worse with other
    # clips' captions
    assert learned.below_zero_output > 0.5
    assert learned.caption_effect > 0.05
    store = open_store(settings.store_url)
    try:
        assert [alert.rule for alert in store.alerts("r") if alert.severity != "info"] == []
    finally:
        store.close()
