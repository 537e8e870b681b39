"""Several decays branch off from one run: each equals the run that was planned with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from moescope.cli import app
from moescope.monitors.states.checkpoint import checkpoint_folders, read_checkpoint
from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.loop import Trainer
from moescope.trainer.run import train

CONSTANT = ("--set", "optim.schedule=constant")
WSD = {"optim.schedule": "wsd", "optim.decay_steps": 6, "checkpoint.disk_every_steps": 8}


def _end(settings: Settings, run_id: str) -> dict[str, Any]:
    folder = settings.home / "runs" / run_id / "checkpoints"
    return read_checkpoint(checkpoint_folders(folder)[-1])


@pytest.fixture
def config(small: RunConfig) -> RunConfig:
    return changed(small, {**WSD, "steps": 24})


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_branch_is_the_run_that_was_planned_with_its_decay(
    config: RunConfig, settings: Settings, same: Any, optimizer: str
) -> None:
    sooner = {"steps": 14, "checkpoint.disk_every_steps": 4, "optim.warmup_steps": 2}
    config = changed(config, {"optim.optimizer": optimizer, **sooner})
    train(config, settings=settings, run_id="trunk", progress=False)
    for steps, at in ((10, 4), (14, 8)):
        planned = changed(config, {"steps": steps})
        train(planned, settings=settings, run_id=f"planned-{steps}", progress=False)
        result = train(
            planned,
            settings=settings,
            run_id=f"branch-{steps}",
            branch_from="trunk",
            branch_at=at,
            progress=False,
        )
        assert (result.status, result.step) == ("finished", steps)
        want, got = _end(settings, f"planned-{steps}"), _end(settings, f"branch-{steps}")
        assert same({**want, "judge": {}}, {**got, "judge": {}}) == []
        with open_store(settings.store_url) as store:
            (segment,) = store.segments(f"branch-{steps}")
            assert (segment.index, segment.start_step, segment.reason) == (0, at, "start")
            texts = [event.text for event in store.events(f"branch-{steps}")]
            assert f"starts from a branch of run {config.recipe}-trunk, step {at}" in texts
            assert f"the learning rate falls from step {steps - 6} on" in texts


def test_a_branch_that_is_poisoned_at_once_goes_back_to_where_it_began(
    config: RunConfig, settings: Settings
) -> None:
    train(changed(config, {"steps": 14}), settings=settings, run_id="trunk", progress=False)
    went: list[tuple[int, int]] = []

    @torch.no_grad()
    def on_step(trainer: Trainer) -> None:
        if trainer.segment.reason == "rollback":
            went.append((trainer.segment.index, trainer.segment.start_step))
            trainer.stop()
        elif trainer.state.step == 9:
            next(trainer.state.model.parameters()).fill_(torch.nan)

    train(
        changed(config, {"steps": 22, "policy.mode": "on"}),
        settings=settings,
        run_id="branch",
        branch_from="trunk",
        branch_at=8,
        progress=False,
        on_step=on_step,
    )
    assert went == [(1, 8)]


def test_what_cannot_branch_is_told_in_one_line(
    config: RunConfig, settings: Settings, clips_folder: Path
) -> None:
    train(config, settings=settings, run_id="trunk", name="trunk", progress=False)

    def moescope(*words: str) -> Any:
        place = ["--home", str(settings.home), "--store", settings.store_url]
        return CliRunner().invoke(app, ["train", *words, *place], env={"MOESCOPE_MLFLOW": "off"})

    for words, expected in (
        (("--branch-from", "trunk"), "falls from step 18 on, before the checkpoint of step 24"),
        (("--branch-from", "trunk", "--at", "9"), r"no usable checkpoint of step 9"),
        (
            ("--branch-from", "trunk", "--at", "16", "--steps", "20"),
            "the branch falls from",
        ),
        (("--branch-from", "trunk", "--at", "8", "--set", "model.width=64"), "in a branch"),
        (("--branch-from", "trunk", "--at", "8", "--set", "optim.optimizer=muon"), "in a branch"),
        (
            (*("--branch-from", "trunk", "--at", "8", "--steps", "8"), *CONSTANT),
            "ask for more with --steps",
        ),
        (("--branch-from", "nobody"), "unknown run nobody"),
        (("--resume", "trunk", "--branch-from", "trunk"), "does not go with --resume"),
        (("tiny", "--branch-from", "trunk"), "a recipe does not go with --branch-from"),
        (("tiny", "--at", "8"), "--at names a checkpoint of --branch-from"),
    ):
        refused = moescope(*words)
        assert refused.exit_code == 2, words
        (line,) = refused.stderr.splitlines()
        assert expected in line
    with open_store(settings.store_url) as store:
        assert [run.id for run in store.runs()] == ["trunk"]
    done = moescope("--branch-from", "trunk", "--at", "8", "--steps", "14", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 14
