"""The averaged weights."""

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from moescope.trainer.optim.ema import Ema


def _model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_the_average_of_constant_weights_is_the_weights() -> None:
    model = _model()
    ema = Ema(model, 0.9)
    for _ in range(5):
        ema.update(torch.ones(()))
    torch.testing.assert_close(ema.state_dict()["average.weight"], model.weight.data)


def test_the_first_updates_count_more_than_the_decay_says() -> None:
    model = _model()
    nn.init.zeros_(model.weight)
    ema = Ema(model, 0.99)
    nn.init.ones_(model.weight)
    ema.update(torch.ones(()))
    # decay of the first update: min(0.99, 1/10), so that 0.9 of the new weight comes in
    assert float(ema.state_dict()["average.weight"][0, 0]) == pytest.approx(0.9)


def test_a_step_that_is_held_back_leaves_the_average_alone() -> None:
    model = _model()
    ema = Ema(model, 0.9)
    before = {name: value.clone() for name, value in ema.state_dict().items()}
    nn.init.ones_(model.weight)
    ema.update(torch.zeros(()))
    assert all(torch.equal(value, before[name]) for name, value in ema.state_dict().items())


def test_lending_the_average_gives_the_own_weights_back_bit_for_bit() -> None:
    model = _model()
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    own = model.weight.detach().clone()
    with ema.swapped_in():
        assert torch.equal(model.weight, ema.state_dict()["average.weight"])
        assert not torch.equal(model.weight, own)
    assert torch.equal(model.weight, own)


def test_own_weights_come_back_even_after_an_error() -> None:
    model = _model()
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    own = model.weight.detach().clone()
    with pytest.raises(RuntimeError, match="in the middle"), ema.swapped_in():
        raise RuntimeError("in the middle")
    assert torch.equal(model.weight, own)


def test_a_restored_average_goes_on_as_the_saved_one() -> None:
    model = _model()
    first = Ema(model, 0.9)
    first.update(torch.ones(()))
    saved = {name: value.clone() for name, value in first.state_dict().items()}
    second = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.mul_(2.0)
    second.load_state_dict(saved)
    for ema in (first, second):
        ema.update(torch.ones(()))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_averages_are_those_of_diffusers() -> None:
    model = _model()
    theirs = EMAModel(model.parameters(), decay=0.6)
    ours = Ema(model, 0.6)
    # theirs copies the weights at the first update, where ours takes in nine tenths of them
    theirs.step(model.parameters())
    ours.load_state_dict({**ours.state_dict(), "num_updates": torch.ones(())})
    for n in range(1, 20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        theirs.step(model.parameters())
        ours.update(torch.ones(()))
        # 2/11, 3/12, ... until (1 + n) / (10 + n) passes 0.6 at n = 13
        assert theirs.cur_decay_value == min(0.6, (1 + n) / (10 + n))
        for name, want in zip(dict(model.named_parameters()), theirs.shadow_params, strict=True):
            torch.testing.assert_close(ours.state_dict()[f"average.{name}"], want)
