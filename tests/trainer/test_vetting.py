"""Before batches are passed over, the state that finds them bad is tried on ones that were good."""

from dataclasses import replace

import pytest
import torch

from moescope.platform.frozen import changed
from moescope.platform.records import Action
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.data.batches import Batch
from moescope.trainer.loop import Trainer
from moescope.trainer.run import open_trainer, train
from moescope.trainer.vetting import Vetting

FROM, BATCHES = 56, 4
"""Later than the judge needs to know what losses are usual."""


def vetted(
    config: RunConfig, settings: Settings, monkeypatch: pytest.MonkeyPatch, what: str
) -> tuple[set[int], list[str], int]:
    """Trains with vetting from batch FROM on; `what` is spoiled there, the "data" of the next four
    batches or the "state". Returns what was passed over, the notes, and the last step."""
    skipped: set[int] = set()

    def on_step(trainer: Trainer) -> None:
        skipped.clear()
        skipped.update(trainer.policy.skipped)
        if trainer.state.step != FROM or trainer.state.batch != FROM:
            return
        trainer.vetting = Vetting(FROM, FROM + BATCHES)
        if what == "state":
            chance = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in trainer.state.model.parameters():
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=chance))
            return
        get = trainer.batches.get

        def spoiled(number: int) -> Batch:
            batch = get(number)
            is_spoiled = FROM <= number < FROM + BATCHES
            return replace(batch, video_BCFHW=-8 * batch.video_BCFHW) if is_spoiled else batch

        monkeypatch.setattr(trainer.batches, "get", spoiled)

    result = train(config, settings=settings, progress=False, on_step=on_step)
    with open_store(settings.store_url) as store:
        notes = [event.text for event in store.events(result.run_id, kinds=["note"])]
    return skipped, notes, result.step


def test_bad_batches_are_passed_over_by_a_sound_state(
    small: RunConfig, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(small, {"steps": FROM + 2})
    skipped, notes, last = vetted(config, settings, monkeypatch, "data")
    assert skipped == {FROM + n for n in range(BATCHES)}
    assert not any("state is at fault" in note for note in notes)
    assert last == FROM + 2


def test_a_spoiled_state_passes_no_batch_over_and_says_so(
    small: RunConfig, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(small, {"steps": FROM + 2})
    skipped, notes, last = vetted(config, settings, monkeypatch, "state")
    assert skipped == set()
    [note] = [note for note in notes if "state is at fault" in note]
    assert f"it finds batches {FROM - 3} to {FROM - 1} as bad, which were good" in note
    assert last == FROM + 2


def test_going_back_for_the_step_under_way_comes_before_the_next_batch_is_chosen(
    small: RunConfig, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where a step is settled while the next one computes."""
    config = changed(small, {"checkpoint.memory_every_steps": 4})
    with open_trainer(config, settings) as trainer:
        for _ in range(8):
            trainer.train_step()
        trainer.vetting = Vetting(8, 60)
        trainer._pending = trainer._launch(trainer._next_batch(), 0.0)
        actions = iter([Action("rollback", "forced by the test", to_step=4)])
        calm = Action("carry_on", "nothing holds")
        monkeypatch.setattr(trainer.policy, "decide", lambda **_: next(actions, calm))
        trainer.train_step()
        assert trainer.segment.start_step == 4
        assert (trainer.state.step, trainer.state.batch) == (5, 5)
