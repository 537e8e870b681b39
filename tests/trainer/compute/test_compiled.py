"""Compiled blocks: the same training but for rounding, watched or not."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.compute import compiled
from moescope.trainer.compute.compiled import compile_blocks
from moescope.trainer.config import RunConfig
from moescope.trainer.model.make import make_model
from moescope.trainer.run import train

# torch's compiler imports what torch calls deprecated, and looks at gradients of tensors between
# layers; neither is ours. Until torch 2.14 at least.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

STEPS = 4
SAME = (
    catalogue.EXPERT_TOKENS,
    catalogue.EXPERT_LOAD,
    catalogue.MAX_VIOLATION,
    catalogue.GLOBAL_MAX_VIOLATION,
    catalogue.BIAS_FLIP_RATE,
    catalogue.CO_ACTIVATION,
    catalogue.ROUTING_BY_TIMESTEP,
    catalogue.ROUTING_BY_MOTION,
)
CLOSE = (
    catalogue.LOSS_TOTAL,
    catalogue.LOSS_PER_SAMPLE,
    catalogue.GRAD_NORM,
    catalogue.ACTIVATION_RMS,
    catalogue.ACTIVATION_ABSMAX,
    catalogue.ATTENTION_LOGIT_BOUND,
    catalogue.ROUTER_ENTROPY_NATS,
    catalogue.ACTIVATION_KURTOSIS,
    catalogue.ACTIVATION_DEPTH_GROWTH,
    catalogue.ACTIVATION_MODALITY_RMS,
    catalogue.ACTIVATION_MODALITY_OUTLIER_RATIO,
    catalogue.ACTIVATION_MODALITY_KURTOSIS,
    catalogue.ROUTER_MARGIN,
    catalogue.MUTUAL_INFORMATION_NATS,
    catalogue.SHARED_TO_ROUTED,
    catalogue.GRAD_LAYER_NORM,
    catalogue.UPDATE_WEIGHT_RATIO,
    catalogue.LOSS_NOISE_BIN,
)
SOMETIMES = (catalogue.ACTIVATION_CLAMPED_SHARE, catalogue.PROBE_LOSS)
"""Empty where nothing is clamped or probed, in both then."""


def _signals(config: RunConfig, home: Path) -> dict[str, Any]:
    settings = Settings(home=home, mlflow="off")
    result = train(config, settings=settings, progress=False)
    assert result.status == "finished"
    with open_store(settings.store_url) as store:
        return {
            name: read_series(store, result.run_id, name).values
            for name in (*SAME, *CLOSE, *SOMETIMES)
        }


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("family", "backend", "probe_every"),
    [
        # what the graphs hold does not depend on the C++ that is made of them in a minute
        pytest.param("cutoff", "inductor", 0, marks=pytest.mark.story),
        # a probe has graphs of its own, without gradients: one family shows that they agree
        ("jitmoe", "aot_eager", 0),
        ("wan", "aot_eager", 2),
    ],
)
def test_counts_are_the_same_and_signals_within_rounding(
    small: RunConfig,
    family: str,
    backend: str,
    probe_every: int,
    ways: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    every = {"steps": STEPS, "watch.sample_every": 2, "watch.probe_every": probe_every}
    config = changed(small, {**ways[family], **every})
    want = _signals(config, tmp_path / "eager")
    assert len(want[catalogue.LOSS_TOTAL]) == STEPS
    assert len(want[catalogue.ACTIVATION_RMS]) == STEPS // 2
    assert bool(len(want[catalogue.PROBE_LOSS])) == bool(probe_every)
    torch._dynamo.reset()
    # graphs are made where blocks are run twice, which is harder, and then serve both trainings
    for changes in ({"compute.are_blocks_recomputed": True}, {}):
        also = {"compute.is_compiled": True, **changes}
        got = _signals(changed(config, also), tmp_path / f"compiled-{len(changes)}")
        for name in SAME:
            assert np.array_equal(want[name], got[name]), name
        for name in (*CLOSE, *SOMETIMES):
            np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_without_a_compiler_there_is_a_line_that_says_so(
    small: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(MoescopeError, match=r"no C\+\+ compiler here.*install g\+\+"):
        compile_blocks(make_model(small))
