"""Each fault does what it says, in a training of a few steps."""

from collections.abc import Iterator

import pytest
import torch

from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.faults.faults import BLOCK, EXPERT, LAYER
from moescope.trainer.faults.make_runs import asked_faults
from moescope.trainer.loop import Trainer
from moescope.trainer.model.make import watched_blocks
from moescope.trainer.moe.steps import moe_layers
from moescope.trainer.run import open_trainer


@pytest.fixture
def trainer(small: RunConfig, settings: Settings) -> Iterator[Trainer]:
    changes = {"moe.num_chosen": 1, "policy.mode": "off", "moe.every": 1}
    with open_trainer(changed(small, changes), settings) as opened:
        for _ in range(3):
            opened.train_step()
        yield opened


def steps_with(trainer: Trainer, name: str, num: int) -> None:
    [fault] = asked_faults([name])
    assert fault.plant is not None
    for _ in range(num):
        fault.plant(trainer)
        trainer.train_step()


def test_the_rate_is_ten_times_what_the_schedule_says(trainer: Trainer) -> None:
    usual = trainer.state.optimizer.param_groups[0]["lr"]
    steps_with(trainer, "learning_rate", 1)
    # still in warm-up, so that the next step's rate is a little more than ten times the last
    assert 10 < trainer.state.optimizer.param_groups[0]["lr"] / usual < 20


@pytest.mark.parametrize(("name", "share"), [("monopoly", 1.0), ("dead_expert", 0.0)])
def test_an_expert_gets_everything_or_nothing(trainer: Trainer, name: str, share: float) -> None:
    steps_with(trainer, name, 1)
    counts_E = moe_layers(trainer.state.model)[LAYER].tally.counts_RE[0]
    assert counts_E[EXPERT] / counts_E.sum() == share


def test_the_optimizer_does_not_reach_a_frozen_expert(trainer: Trainer) -> None:
    steps_with(trainer, "frozen_expert", 1)
    layer = moe_layers(trainer.state.model)[LAYER]
    before_EDG = layer.w_in_EDG.detach().clone()
    steps_with(trainer, "frozen_expert", 0)
    for _ in range(2):
        trainer.train_step()
    has_moved_E = (layer.w_in_EDG != before_EDG).flatten(1).any(1)
    assert not has_moved_E[EXPERT]
    assert has_moved_E.sum() == len(has_moved_E) - 1


def test_routers_and_weights_are_rounded(trainer: Trainer) -> None:
    steps_with(trainer, "rounded_router", 1)
    router = moe_layers(trainer.state.model)[LAYER].router
    [fault] = asked_faults(["rounded_router"])
    assert fault.plant is not None
    fault.plant(trainer)
    for parameter in router.parameters():
        assert torch.equal(parameter, parameter.half().float())
    steps_with(trainer, "lost_updates", 1)
    for parameter in trainer.state.model.parameters():
        assert torch.equal(parameter, parameter.bfloat16().float())


def test_gradients_that_are_not_a_number_come_at_every_step_and_the_guard_holds_them(
    trainer: Trainer,
) -> None:
    before = [p.detach().clone() for p in trainer.state.model.parameters()]
    steps_with(trainer, "not_a_number", 3)
    after = list(trainer.state.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    trainer.train_step()
    assert not all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_a_growing_block_returns_more_at_every_step(trainer: Trainer) -> None:
    block = watched_blocks(trainer.state.model)[BLOCK]
    seen: list[float] = []
    [fault] = asked_faults(["growing_block"])
    assert fault.plant is not None
    for _ in range(10):
        fault.plant(trainer)
    # hooks are called in their order, so that this one sees what the fault returns
    handle = block.register_forward_hook(
        lambda module, args, output: seen.append(output.norm().item())
    )
    trainer.train_step()
    assert len(seen) == 1
    first = seen[0]
    for _ in range(10):
        fault.plant(trainer)
    trainer.train_step()
    handle.remove()
    # the training moves it, too
    assert seen[1] / first == pytest.approx(1.1**10, rel=0.3)


def test_slow_batches_come_late_and_are_the_same(trainer: Trainer) -> None:
    want = trainer.batches.get(trainer.state.batch).names
    [fault] = asked_faults(["slow_steps"])
    assert fault.plant is not None
    fault.plant(trainer)
    fault.plant(trainer)
    assert trainer.batches.get(trainer.state.batch).names == want
    assert trainer.batches.bad_clips == {}
    trainer.train_step()
    assert trainer.state.step == 4
