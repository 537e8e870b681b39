"""`moescope upcycle`: a run of clips trained dense becomes one with experts, which trains on, is
watched and goes back as any; a failed one leaves nothing.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from moescope.cli import app
from moescope.monitors.states.checkpoint import checkpoint_folders, read_checkpoint
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.records import Action
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.data.classes import read_classes
from moescope.trainer.loop import Trainer
from moescope.trainer.model.make import make_model
from moescope.trainer.moe.similarity import weight_cosine
from moescope.trainer.open_run import new_run
from moescope.trainer.rollback import carry_out
from moescope.trainer.run import train
from moescope.trainer.upcycle.check import compare, made_inputs
from moescope.trainer.upcycle.plan import UpcyclePlan
from moescope.trainer.upcycle.run import Upcycled, upcycle
from moescope.trainer.upcycle.weights import expert_paths

PICTURES: dict[str, Any] = {
    "model.family": "class",
    "model.num_classes": 4,
    "model.rotary": "2d",
    "model.patch_frames": 1,
    "data.num_mel_steps": 0,
    "data.num_text_bytes": 0,
    "data.num_frames": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "stream": {},
    "class": {**PICTURES, "data.latents": "cosine", "data.latent_size": 2, "model.patch_size": 2},
    "wan": {"model.family": "wan", "model.mlp": "gelu", "model.text_width": 16}
    | {"data.num_mel_steps": 0},
    "noise experts": {"noise_experts.num_experts": 2, "noise_experts.boundaries": [0.7]},
}


@pytest.fixture
def dense(small: RunConfig) -> RunConfig:
    return changed(
        small, {"recipe": "tiny_dense", "steps": 12, "moe.num_experts": 0, "optim.ema_decay": 0.5}
    )


def trained(config: RunConfig, settings: Settings, run_id: str = "dense", **more: Any) -> None:
    result = train(config, settings=settings, run_id=run_id, progress=False, **more)
    assert result.status == "finished"


def resumed(made: Upcycled, settings: Settings, **changes: Any) -> RunConfig:
    with opened(settings) as store:
        config = changed(
            RunConfig.model_validate(dict(store.find_run(made.run_id).config)),
            {key.replace("__", "."): value for key, value in changes.items()},
        )
    return config


def opened(settings: Settings) -> Store:
    return open_store(settings.store_url)


def first_state(made: Upcycled) -> dict[str, Any]:
    (folder,) = checkpoint_folders(Path(made.folder) / "checkpoints")
    return read_checkpoint(folder)


def cosines(weights: dict[str, torch.Tensor]) -> list[float]:
    """The cosine of weights of each layer of experts of a state dict."""
    found = []
    for name, w_in_EDG in weights.items():
        if name.endswith(".w_in_EDG"):
            w_out_EHD = weights[name.replace("w_in_EDG", "w_out_EHD")]
            found += weight_cosine(w_in_EDG[None].flatten(2), w_out_EHD[None].flatten(2)).tolist()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_an_upcycled_run_of_every_family_trains_on_and_its_experts_part(
    dense: RunConfig, settings: Settings, family: str
) -> None:
    trained(changed(dense, FAMILIES[family]), settings)
    plan = UpcyclePlan(4, 2, every=1)
    made = upcycle(settings, "dense", plan, {"watch.probe_every": 10})
    assert made.is_equal
    assert max(made.comparison.clones.flow, made.comparison.clones.layers) <= 1e-5
    assert made.comparison.start < 1e-4
    assert "of " + dense.data.folder in made.compared_on
    classes = read_classes(settings.home / "runs" / "dense")
    assert read_classes(Path(made.folder)) == classes != {}
    state = first_state(made)
    assert state["loop"]["step"] == 0
    assert cosines(state["model"]) == pytest.approx([1.0] * len(cosines(state["model"])), abs=1e-6)
    # the averages start where the weights do
    for name, value in state["ema"].items():
        if name.startswith("average."):
            assert torch.equal(value, state["model"][name.removeprefix("average.")])
    config = resumed(made, settings, steps=31)
    seen: list[list[float]] = []

    def on_step(trainer: Trainer) -> None:
        seen.append(cosines(trainer.state.model.state_dict()))

    result = train(config, settings=settings, resume=made.run_id, progress=False, on_step=on_step)
    assert (result.status, result.step) == ("finished", 31)
    assert seen[0] == pytest.approx([1.0] * len(seen[0]), abs=1e-6)
    # after 30 steps every layer's experts have moved apart, and further with each ten
    assert all(late < early < 1 - 1e-6 for early, late in zip(seen[10], seen[30], strict=True))
    with opened(settings) as store:
        series = read_series(store, made.run_id, catalogue.EXPERT_WEIGHT_COSINE)
        answers = read_series(store, made.run_id, catalogue.EXPERT_OUTPUT_COSINE)
    assert series.steps.tolist() == [0, 10, 20, 30]
    assert (np.diff(series.values, axis=0) < 0).all()
    assert (answers.values[0] > 0.99).all()  # clones after one step are homogenised still
    assert (answers.values[-1] < answers.values[0]).all()


def test_the_new_run_starts_with_the_averaged_weights_and_says_where_they_came_from(
    dense: RunConfig, settings: Settings
) -> None:
    trained(dense, settings, name="amber")
    made = upcycle(settings, "amber", UpcyclePlan(3, 2), {"steps": 50}, name="teal")
    root = settings.home / "runs" / "dense" / "checkpoints"
    average = read_checkpoint(checkpoint_folders(root)[-1])["ema"]
    state = first_state(made)["model"]
    for expert in range(3):
        assert torch.equal(
            state["blocks.1.mlp.w_in_EDG"][expert],
            average["average.blocks.1.mlp.w_in.weight"].t(),
        )
    assert torch.equal(
        state["blocks.0.mlp.w_in.weight"], average["average.blocks.0.mlp.w_in.weight"]
    )
    assert made.origin == "weights of run amber, step 12"
    with opened(settings) as store:
        run = store.find_run("teal")
        assert (run.id, run.status, run.tags) == (made.run_id, "stopped", ("upcycled",))
        (segment,) = store.segments(run.id)
        assert segment.changes["moe.num_experts"] == [0, 3]
        assert segment.changes["moe.hidden"] == [16, 128]  # 4 * 32, the dense MLP's
        assert segment.changes["steps"] == [12, 50]
        (event,) = store.events(run.id)
        assert event.kind == "note"
        assert event.text.startswith("upcycled from weights of run amber, step 12")
        assert (event.details["from_run"], event.details["from_step"]) == ("dense", 12)
        (checkpoint,) = store.checkpoints(run.id)
        assert (checkpoint.step, checkpoint.health) == (0, "certified")
    config = RunConfig.model_validate_json((Path(run.folder) / "config.json").read_text())
    assert config == RunConfig.model_validate(dict(run.config))


@pytest.mark.usefixtures("one_thread")
def test_an_upcycled_run_goes_back_to_its_start_and_on_as_it_did(
    dense: RunConfig, settings: Settings, tmp_path: Path, same: Any
) -> None:
    trained(dense, settings)
    ends = []
    for is_going_back in (False, True):
        made = upcycle(settings, "dense", UpcyclePlan(4, 1), {"seed": 3})
        done: list[int] = []

        def on_step(trainer: Trainer, done: list[int] = done, back: bool = is_going_back) -> None:
            if back and trainer.state.step == 6 and not done:
                done.append(6)
                carry_out(trainer, Action("rollback", "forced", to_step=0), is_automatic=False)

        config = resumed(made, settings)
        result = train(
            config, settings=settings, resume=made.run_id, progress=False, on_step=on_step
        )
        assert (result.status, result.step) == ("finished", 12)
        assert len(done) == is_going_back
        root = Path(made.folder) / "checkpoints"
        ends.append(read_checkpoint(checkpoint_folders(root)[-1]))
    # same seed, same clones, gates and noise; and the way back to the upcycled state is exact
    one, two = ends
    assert same(one["model"], two["model"]) == []
    assert same(one["optimizer"], two["optimizer"]) == []


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_dropped_channels_start_experts_apart(
    dense: RunConfig, settings: Settings, share: float
) -> None:
    trained(dense, settings)
    made = upcycle(settings, "dense", UpcyclePlan(6, 2, drop_share=share), {})
    # the clones agreed before channels were drawn anew
    assert made.comparison.clones.is_none
    assert made.comparison.start > 1e-5
    assert f"{share:g} of each expert's hidden channels are drawn anew" in made.comparison.says
    (cosine,) = cosines(first_state(made)["model"])
    # two experts share a channel with chance (1 - share)^2; what was drawn anew is nearly
    # orthogonal but for the means
    assert cosine == pytest.approx((1 - share) ** 2, abs=0.1)


def test_a_shared_expert_from_the_dense_mlp_is_checked_for_what_holds(
    dense: RunConfig, settings: Settings
) -> None:
    trained(dense, settings)
    made = upcycle(settings, "dense", UpcyclePlan(2, 1, shared_from="dense"), {})
    comparison = made.comparison
    assert comparison.clones.is_none
    assert comparison.doubled is not None
    assert comparison.doubled <= 1e-5
    assert comparison.start > 1e-4
    assert "twice" in comparison.says
    state = first_state(made)["model"]
    expert = state["blocks.1.mlp.w_in_EDG"][1].t()
    assert torch.equal(state["blocks.1.mlp.shared.w_in.weight"], expert)


def test_without_its_clips_a_run_is_compared_on_made_inputs_and_says_so(
    dense: RunConfig, settings: Settings, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "clips"
    elsewhere.symlink_to(dense.data.folder)
    trained(changed(dense, {"data.folder": str(elsewhere)}), settings)
    elsewhere.unlink()
    made = upcycle(settings, "dense", UpcyclePlan(4), {})
    assert made.compared_on.startswith("made inputs, since the run's clips cannot be used")
    assert "does not exist" in made.compared_on
    assert made.is_equal
    with pytest.raises(MoescopeError, match=r"data.folder is .*nowhere, which does not exist"):
        upcycle(settings, "dense", UpcyclePlan(4), {"data.folder": str(tmp_path / "nowhere")})


def test_what_a_new_run_computes_first_is_what_the_dense_one_would(
    dense: RunConfig, settings: Settings
) -> None:
    trained(dense, settings)
    made = upcycle(settings, "dense", UpcyclePlan(4, 2), {})
    config = resumed(made, settings)
    model = make_model(config)
    model.load_state_dict(first_state(made)["model"])
    root = settings.home / "runs" / "dense" / "checkpoints"
    state = read_checkpoint(checkpoint_folders(root)[-1])
    source = make_model(dense)
    source.load_state_dict(
        {name: state["ema"].get(f"average.{name}", value) for name, value in state["model"].items()}
    )
    assert len(expert_paths(model)) == 1
    assert compare(source, model, [made_inputs(config, 2)]).is_none


@pytest.fixture
def home_of_nothing(settings: Settings) -> Iterator[Settings]:
    """Checks afterwards that no run beside the dense one is left, in the store or on disk."""
    yield settings
    with opened(settings) as store:
        assert [run.id for run in store.runs(include_archived=True)] == ["dense"]
    assert [path.name for path in (settings.home / "runs").iterdir()] == ["dense"]


def test_a_failed_one_leaves_no_run_behind(
    dense: RunConfig, home_of_nothing: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(dense, home_of_nothing)
    with pytest.raises(MoescopeError, match=r"checkpoint not written: .* GiB free"):
        upcycle(home_of_nothing, "dense", UpcyclePlan(4), {"checkpoint.min_free_gib": 900_000.0})
    with pytest.raises(MoescopeError, match=r"--drop-share: 0.001 of 128 hidden channels is none"):
        upcycle(home_of_nothing, "dense", UpcyclePlan(4, drop_share=0.001), {})

    def away(self: Store, segment: Any) -> None:
        raise MoescopeError("the store is away")

    monkeypatch.setattr(Store, "add_segment", away)
    with pytest.raises(MoescopeError, match="the store is away"):
        upcycle(home_of_nothing, "dense", UpcyclePlan(4), {})


def test_a_network_that_diverged_is_not_upcycled(
    dense: RunConfig, home_of_nothing: Settings
) -> None:
    broken = changed(dense, {"policy.mode": "off", "guard.is_on": False})

    def on_step(trainer: Trainer) -> None:
        with torch.no_grad():
            next(iter(trainer.state.model.parameters())).fill_(torch.nan)

    trained(broken, home_of_nothing, on_step=on_step)
    with pytest.raises(MoescopeError, match=r"differs by nan.*nothing was written"):
        upcycle(home_of_nothing, "dense", UpcyclePlan(4), {})
    trial = upcycle(home_of_nothing, "dense", UpcyclePlan(4), {}, is_trial=True)
    assert not trial.is_equal


def test_damaged_checkpoints_are_told_and_an_older_good_one_is_taken(
    dense: RunConfig, settings: Settings
) -> None:
    trained(changed(dense, {"checkpoint.disk_every_steps": 5}), settings)
    folders = checkpoint_folders(settings.home / "runs" / "dense" / "checkpoints")
    _spoil(folders[-1])
    made = upcycle(settings, "dense", UpcyclePlan(4), {}, is_trial=True)
    assert made.origin.startswith("weights of run tiny_dense-dense, step 10; checkpoint step-000")
    assert "is damaged" in made.origin
    for folder in folders[:-1]:
        _spoil(folder)
    with pytest.raises(MoescopeError, match=r"has no usable checkpoint in .*; checkpoint step-"):
        upcycle(settings, "dense", UpcyclePlan(4), {})


def _spoil(folder: Path) -> None:
    with (folder / "state.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 64)


def test_the_real_command_makes_a_run_that_the_real_command_trains(
    dense: RunConfig, settings: Settings
) -> None:
    trained(dense, settings, name="amber")

    def moescope(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "MOESCOPE_HOME": str(settings.home), "MOESCOPE_MLFLOW": "off"}
        command = [sys.executable, "-m", "moescope.cli", *words]
        return subprocess.run(
            command, env=environment, cwd=settings.home, capture_output=True, text=True, check=False
        )

    trial = moescope("upcycle", "amber", "--experts", "4", "--verify")
    assert (trial.returncode, trial.stderr) == (0, "")
    assert "clones answer as the dense run: the flow differs by " in trial.stdout
    assert "ready" not in trial.stdout
    made = moescope("upcycle", "amber", "--experts", "4", "--chosen", "1", "--every", "1",
                    "--drop-share", "0.5", "--set", "optim.learning_rate=1e-4", "--name", "teal",
                    "--seed", "7", "--json")  # fmt: skip
    assert made.returncode == 0, made.stderr
    answer = json.loads(made.stdout)
    assert answer["name"] == "teal"
    assert answer["comparison"]["clones"]["flow"] <= 1e-5
    trained_on = moescope("train", "--resume", "teal", "--steps", "3", "--json")
    assert json.loads(trained_on.stdout)["status"] == "finished", trained_on.stderr
    with opened(settings) as store:
        config = store.find_run("teal").config
        assert len(store.runs()) == 2
    assert (config["moe"]["num_chosen"], config["moe"]["every"], config["seed"]) == (1, 1, 7)
    assert config["optim"]["learning_rate"] == 1e-4


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dense", "--experts", "1"], "moe.num_chosen is 2, but moe.num_experts is 1"),
        (["dense", "--experts", "4", "--set", "moe.layer=latent"], "LatentMoE cannot be upcycled"),
        (["dense", "--experts", "4", "--set", "moe.roter=mlp"], "unknown key moe.roter"),
        (["nobody", "--experts", "4"], "unknown run nobody"),
        (["moe", "--experts", "4"], "run moe has experts already"),
        (["dense", "--expert", "4"], "--expert"),
        (["dense"], "--experts"),
        (["dense", "--experts", "4", "--shared", "-1"], "--shared"),
        (["dense", "--experts", "0"], "--experts"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_done(
    dense: RunConfig, small: RunConfig, settings: Settings, words: list[str], expected: str
) -> None:
    settings.make_home()
    with opened(settings) as store:
        for run_id, config in (("dense", dense), ("moe", small)):
            run = new_run(config, settings, run_id, run_id, "cpu", "0")
            store.add_run(replace(run, status="finished"))
    refused = CliRunner().invoke(app, ["upcycle", *words, "--home", str(settings.home)])
    assert refused.exit_code == 2
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert expected in line
    with opened(settings) as store:
        assert len(store.runs()) == 2
