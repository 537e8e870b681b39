"""The examples do what they say: trainings of a plain loop, of transformers and of Lightning."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError
from moescope.platform.series import read_series
from moescope.platform.store import Store

EXAMPLES = Path(__file__).parents[3] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(store: Store, name: str, steps: int, layers: int, experts: int) -> None:
    run = store.find_run(name)
    assert run.status == "finished"
    losses = read_series(store, run.id, catalogue.LOSS_TOTAL)
    assert losses.steps.tolist() == list(range(steps))
    assert losses.values[-5:].mean() < losses.values[:5].mean()
    tokens = read_series(store, run.id, catalogue.EXPERT_TOKENS).values
    assert tokens.shape == (steps, layers, experts)
    assert (tokens.sum(axis=(1, 2)) > 0).all()
    assert (read_series(store, run.id, catalogue.GRAD_NORM).values > 0).all()
    assert len(read_series(store, run.id, catalogue.ROUTER_ENTROPY_NATS).steps) == steps // 10
    assert len(read_series(store, run.id, catalogue.ACTIVATION_RMS).steps) == steps // 10
    assert [c.step for c in store.checkpoints(run.id)][-1] == steps


def test_the_plain_loop_goes_back_passes_over_its_bad_batches_and_recovers(store: Store) -> None:
    plain_loop = example("plain_loop")
    run = plain_loop.train(160, name="plain")
    assert run.status == "finished"
    kinds = [event.kind for event in store.events(run.id)]
    assert kinds.count("rollback") == 1
    losses = read_series(store, run.id, catalogue.LOSS_TOTAL)
    living = losses.segments == losses.segments.max()
    assert losses.values.max() > 100
    assert losses.values[living].max() < 1
    batches = read_series(store, run.id, catalogue.DATA_BATCH).values
    # after it went back, no bad batch is read again
    assert not set(batches[living].astype(int)) & set(plain_loop.BAD)


def test_a_training_by_the_trainer_of_transformers_is_watched(store: Store) -> None:
    callback = example("transformers_trainer").train(40, name="qwen")
    check(store, "qwen", steps=40, layers=2, experts=4)
    speed = read_series(store, callback.run.id, catalogue.TOKENS_PER_S).values
    assert (speed > 0).all()


# who warns: Lightning, of srun, of few workers and of its own use of pytrees
@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.filterwarnings("ignore::FutureWarning:lightning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning")
def test_a_training_by_the_trainer_of_lightning_is_watched(store: Store) -> None:
    example("lightning_module").train(40, name="light")
    check(store, "light", steps=40, layers=2, experts=4)


# as above
@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.filterwarnings("ignore::FutureWarning:lightning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning")
@pytest.mark.parametrize("name", ["plain_loop", "transformers_trainer", "lightning_module"])
def test_a_training_that_is_started_again_goes_on_where_it_was(store: Store, name: str) -> None:
    train = example(name).train
    train(12, name="again", resume=True)
    [kept] = [c for c in store.checkpoints(store.find_run("again").id) if c.step == 12]
    before = torch.load(f"{kept.path}/objects.pt", weights_only=True)
    train(16, name="again", resume=True)
    run = store.find_run("again")
    assert run.status == "finished"
    assert [(s.reason, s.start_step) for s in store.segments(run.id)] == [
        ("start", 0),
        ("resume", 12),
    ]
    losses = read_series(store, run.id, catalogue.LOSS_TOTAL)
    assert losses.steps.tolist() == list(range(16))
    last = store.checkpoints(run.id)[-1]
    after = torch.load(f"{last.path}/objects.pt", weights_only=True)
    # the optimizer and the schedule count on, too
    moved = [int(entry["step"]) for entry in after["optimizer"]["state"].values()]
    assert set(moved) == {16}
    assert {int(entry["step"]) for entry in before["optimizer"]["state"].values()} == {12}
    schedules = [value["last_epoch"] for value in after.values() if "last_epoch" in value]
    assert schedules in ([], [16])


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.filterwarnings("ignore::FutureWarning:lightning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning")
@pytest.mark.parametrize("name", ["transformers_trainer", "lightning_module"])
def test_a_training_that_has_all_its_steps_makes_no_more_of_them(store: Store, name: str) -> None:
    train = example(name).train
    train(5, name="done", resume=True)
    with pytest.raises(MoescopeError, match="run done is at step 5 of 5 already: ask for more"):
        train(5, name="done", resume=True)
    run = store.find_run("done")
    assert run.status == "finished"
    assert len(read_series(store, run.id, catalogue.LOSS_TOTAL).steps) == 5
