"""A new run starts from another run's weights: on other data, at another learning rate and at
another resolution; what does not fit is told on one line.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from moescope.cli import app
from moescope.monitors.states.checkpoint import checkpoint_folders, read_checkpoint
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.loop import Trainer
from moescope.trainer.run import train

PICTURES: dict[str, Any] = {
    "model.family": "class",
    "model.num_classes": 4,
    "model.rotary": "2d",
    "model.patch_frames": 1,
    "data.num_mel_steps": 0,
    "data.num_text_bytes": 0,
    "data.num_frames": 1,
}
# as they were trained, and what changes with the resolution
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stream": ({}, {"data.num_frames": 6, "data.num_mel_steps": 12, "data.num_text_bytes": 12}),
    "stream of LatentMoE": (
        {"moe.layer": "latent", "moe.router": "softmax", "moe.num_shared": 0}
        | {"moe.latent_heads": 2, "moe.latent_head_width": 8},
        {"data.frames_per_s": 4.0},
    ),
    "class as DSMoE": (
        {**PICTURES, "data.latents": "cosine", "data.latent_size": 2, "model.patch_size": 2},
        {},
    ),
    "class as JiT": (
        {**PICTURES, "model.num_class_tokens": 4, "model.class_tokens_from": 1}
        | {"model.norm": "rms", "objective.prediction": "data", "model.patch_bottleneck": 8},
        {},
    ),
    "wan": (
        {"model.family": "wan", "model.text_width": 16, "data.num_mel_steps": 0},
        {"data.num_frames": 8},
    ),
    "two by noise level": (
        {"noise_experts.num_experts": 2, "noise_experts.boundaries": [0.7]}
        | {"noise_experts.transition": 0.1, "noise_experts.is_learned": True},
        {"data.num_frames": 6},
    ),
}


@pytest.fixture(scope="module")
def other_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other-clips")
    make_clips(folder, 6, seed=3)
    return folder


@pytest.fixture
def config(small: RunConfig) -> RunConfig:
    return changed(small, {"steps": 6, "optim.ema_decay": 0.5})


def averaged(settings: Settings, run_id: str) -> dict[str, torch.Tensor]:
    """The weights that a fine-tuned run starts with: averages, and buffers as they are."""
    state = read_checkpoint(checkpoint_folders(settings.home / "runs" / run_id / "checkpoints")[-1])
    return {
        name: state["ema"].get(f"average.{name}", value) for name, value in state["model"].items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_on_with_other_data_and_at_another_resolution(
    config: RunConfig, settings: Settings, other_clips: Path, family: str
) -> None:
    shape, resolution = FAMILIES[family]
    config = changed(config, shape)
    train(config, settings=settings, run_id="r", progress=False)
    started: list[dict[str, torch.Tensor]] = []

    def on_step(trainer: Trainer) -> None:
        if not started:
            assert trainer.state.step == 0
            assert not trainer.state.optimizer.state_dict()["state"]
            state = trainer.state.model.state_dict()
            started.append({name: value.clone() for name, value in state.items()})

    tuned = changed(
        config,
        {"data.folder": str(other_clips), "steps": 4, "optim.learning_rate": 1e-5}
        | {"data.height": 32, "data.width": 24 if "latents" not in str(shape) else 32}
        | resolution,
    )
    assert tuned.tokens_per_sample > config.tokens_per_sample
    result = train(
        tuned, settings=settings, run_id="s", init_from="r", progress=False, on_step=on_step
    )
    assert (result.status, result.step) == ("finished", 4)
    want = averaged(settings, "r")
    assert started[0].keys() == want.keys()
    assert all(torch.equal(started[0][name], want[name]) for name in want)
    # and it is trained: at a small rate, but everywhere
    ended = averaged(settings, "s")
    moved = [float((ended[name] - want[name]).abs().max()) for name in want if "weight" in name]
    assert max(moved) > 0
    assert max(moved) < 1e-3
    with open_store(settings.store_url) as store:
        notes = [event for event in store.events("s") if event.kind == "note"]
        assert [event.text for event in notes] == ["starts from weights of run tiny-r, step 6"]
        assert notes[0].details == {"from_run": "r", "from_name": "tiny-r", "from_step": 6}


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("stream", {"model.width": 64}, "model.width is 64 here and 32 there; blocks.0"),
        (
            "stream",
            {"model.layers": 3},
            r"model.layers is 3 here and 2 there; blocks.2.* absent there",
        ),
        ("stream", {"moe.num_experts": 6}, "moe.num_experts is 6 here and 4 there; blocks.1"),
        ("stream", {"data.num_mel_steps": 0}, "data.num_mel_steps is 0 here and 8 there; mel_in"),
        ("stream", {"moe.bias_update_speed": 0.0}, "moe.bias_update_speed is 0.0 here and 0.001"),
        ("stream", {"model.patch_size": 4}, "model.patch_size is 4 here and 8 there; video_"),
        ("class as DSMoE", {"model.num_classes": 9}, r"is \[10, 32\] here and \[5, 32\] there"),
    ],
)
def test_what_does_not_fit_is_one_line_and_no_run(
    config: RunConfig, settings: Settings, family: str, changes: dict[str, Any], expected: str
) -> None:
    config = changed(config, {**FAMILIES[family][0], "steps": 1})
    train(config, settings=settings, run_id="r", progress=False)
    with pytest.raises(MoescopeError, match=expected) as caught:
        train(changed(config, changes), settings=settings, init_from="r", progress=False)
    assert len(str(caught.value).splitlines()) == 1
    assert "the weights of run tiny-r do not fit" in str(caught.value)
    with open_store(settings.store_url) as store:
        assert [run.id for run in store.runs()] == ["r"]


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("class as DSMoE", {"objective.prediction": "data"}, "objective.prediction is data here"),
        ("stream", {"model.heads": 1}, "model.heads is 1 here and 2 in run tiny-r"),
        ("stream", {"model.rotary": "1d"}, "model.rotary is 1d here and 3d in run tiny-r"),
    ],
)
def test_weights_of_the_same_shape_that_stood_for_something_else_are_refused(
    config: RunConfig, settings: Settings, family: str, changes: dict[str, Any], expected: str
) -> None:
    config = changed(config, {**FAMILIES[family][0], "model.qk_norm": "none", "steps": 1})
    train(config, settings=settings, run_id="r", progress=False)
    with pytest.raises(MoescopeError, match=expected):
        train(changed(config, changes), settings=settings, init_from="r", progress=False)


@pytest.mark.parametrize(("asked", "expected"), [([0.4], 0.4), (None, 0.7)])
def test_learned_boundaries_start_where_the_new_run_says_and_else_where_they_were(
    config: RunConfig, settings: Settings, asked: list[float] | None, expected: float
) -> None:
    config = changed(config, {**FAMILIES["two by noise level"][0], "steps": 1})
    train(config, settings=settings, run_id="r", progress=False)
    tuned = changed(config, {} if asked is None else {"noise_experts.boundaries": asked})
    found: list[float] = []

    def on_step(trainer: Trainer) -> None:
        found.append(float(trainer.state.model.state_dict()["theta_J"].sigmoid()[0]))

    train(tuned, settings=settings, init_from="r", progress=False, on_step=on_step)
    assert found[0] == pytest.approx(expected, abs=2e-3)


def test_without_a_recipe_the_command_takes_the_runs_own_configuration(
    config: RunConfig, settings: Settings, other_clips: Path
) -> None:
    train(config, settings=settings, run_id="r", name="amber", progress=False)

    def moescope(*words: str) -> Any:
        place = ["--home", str(settings.home), "--store", settings.store_url]
        return CliRunner().invoke(app, [*words, *place], env={"MOESCOPE_MLFLOW": "off"})

    done = moescope("train", "--init-from", "amber", "--data", str(other_clips), "--steps", "2",
                    "--set", "optim.learning_rate=1e-4", "--name", "teal", "--json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "teal"
    with open_store(settings.store_url) as store:
        tuned = RunConfig.model_validate(dict(store.find_run("teal").config))
    changes = {"data.folder": str(other_clips), "steps": 2, "optim.learning_rate": 1e-4}
    assert tuned == changed(config, changes)
    for words, expected in (
        (("--init-from", "nobody"), "unknown run nobody"),
        (("tiny", "--init-from", "amber", "--data", str(other_clips)), "without a recipe"),
        (("--init-from", "amber", "--set", "moe.router_hidden=9"), "has no effect"),
    ):
        refused = moescope("train", *words)
        assert refused.exit_code == 2
        (line,) = refused.stderr.splitlines()
        assert expected in line
