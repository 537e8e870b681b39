"""One expert at a time on the device: who is there when, and that clips are the same."""

import pytest
import torch
from torch import Tensor

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.trainer.config import RunConfig
from moescope.trainer.model.make import make_model
from moescope.trainer.model.noise_experts import NoiseExperts
from moescope.trainer.moe.noise_experts import blend_weights
from moescope.trainer.run import train
from moescope.trainer.sampling.generate import Prompt, Sampling, generate, noise_schedule
from moescope.trainer.sampling.offload import OneAtATime, offloaded
from moescope.trainer.sampling.sample_run import sample_run

CPU = torch.device("cpu")
TWO = {"noise_experts.num_experts": 2, "noise_experts.boundaries": [0.7]}
SHARED = {"noise_experts.shared_blocks": 1}


class Moves:
    """A mover that only writes down who went where."""

    def __init__(self) -> None:
        self.there: set[int] = set()
        self.log: list[str] = []

    def place(self, expert: int) -> None:
        self.there.add(expert)
        self.log.append(f"+{expert}")

    def remove(self, expert: int) -> None:
        self.there.remove(expert)
        self.log.append(f"-{expert}")


def moves(levels: list[float], taus: list[float], transition: float) -> list[str]:
    """Returns the moves of a way through these levels; one expert at most is ever there."""
    mover = Moves()
    residence = OneAtATime(mover, CPU)
    sigma_B, tau_J = torch.tensor(levels), torch.tensor(taus)
    for weight_X in blend_weights(sigma_B, tau_J, transition, "linear").T:
        needed = torch.nonzero(weight_X > 0).flatten().tolist()
        order = residence.order(needed)
        assert sorted(order) == needed
        for expert in order:
            residence.bring(expert)
            assert mover.there == {expert} == {residence.resident}
    residence.leave()
    assert mover.there == set()
    return mover.log


def test_with_a_hard_switch_each_expert_comes_once() -> None:
    levels = noise_schedule(40, 12.0)[:-1]
    assert moves(levels, [0.875], 0.0) == ["+1", "-1", "+0", "-0"]
    assert moves(levels, [0.3, 0.875], 0.0) == ["+2", "-2", "+1", "-1", "+0", "-0"]


def test_in_a_transition_the_one_that_is_there_answers_first() -> None:
    # the middle three levels are blended: 1 and 0, then 0 and 1, then 1 and 0; 0 is there already
    assert moves([0.9, 0.75, 0.7, 0.65, 0.1], [0.7], 0.2) == [
        "+1", "-1", "+0", "-0", "+1", "-1", "+0", "-0",
    ]  # fmt: skip


@pytest.mark.parametrize("changes", [TWO, TWO | SHARED, TWO | {"noise_experts.transition": 0.3}])
def test_offloading_changes_no_clip(small: RunConfig, changes: dict[str, object]) -> None:
    config = changed(small, changes)
    model = make_model(config)
    assert isinstance(model, NoiseExperts)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    want = generate(model, config, [Prompt("a"), Prompt("b")], 1, Sampling(5))
    with offloaded(model, CPU) as residence:
        got = generate(model, config, [Prompt("a"), Prompt("b")], 1, Sampling(5))
        assert residence.resident == 0
    assert torch.equal(got.video_BCFHW, want.video_BCFHW)
    assert torch.equal(got.mel_BNM, want.mel_BNM)
    assert model.residence is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_samples_are_made_with_it_where_there_is_something_to_offload(
    small: RunConfig, settings: Settings
) -> None:
    config = changed(small, {"steps": 2, "device": "cpu"})
    for run_id, changes in (("one", {}), ("two", TWO)):
        train(changed(config, changes), settings=settings, run_id=run_id, progress=False)
    with pytest.raises(MoescopeError, match=r"--offload does not go with run .*: one network"):
        sample_run(settings, "one", ["x"], Sampling(2), 0, None, offload=True)
    told: list[str] = []
    (path,) = sample_run(
        settings, "two", ["x"], Sampling(2), 0, None, offload=True, tell=told.append
    )
    assert path.is_file()
    assert told == ["--offload does nothing here: the clips are made on the CPU"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_idle_experts_weights_are_in_pinned_memory(small: RunConfig) -> None:
    config = changed(small, TWO | SHARED)
    model = make_model(config)
    assert isinstance(model, NoiseExperts)
    gpu = torch.device("cuda")

    def are_there(expert: int) -> set[tuple[str, bool]]:
        tensors: list[Tensor] = [
            *model.experts[expert].parameters(),
            *model.experts[expert].buffers(),
        ]
        return {(t.device.type, t.is_pinned()) for t in tensors}

    with offloaded(model, gpu) as residence:
        assert are_there(0) == are_there(1) == {("cpu", True)}
        assert model.trunk is not None
        assert {p.device.type for p in model.trunk.parameters()} == {"cuda"}
        got = generate(model, config, [Prompt("a")], 1, Sampling(5))
        assert residence.resident == 0
        assert (are_there(0), are_there(1)) == ({("cuda", False)}, {("cpu", True)})
    assert are_there(0) == {("cpu", True)}
    model.to(gpu)
    want = generate(model, config, [Prompt("a")], 1, Sampling(5))
    assert torch.equal(got.video_BCFHW, want.video_BCFHW)
