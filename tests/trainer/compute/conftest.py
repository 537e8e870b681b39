"""A model of which every part has a gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from moescope.trainer.config import RunConfig
from moescope.trainer.model.make import make_model

Awake = Callable[[RunConfig], nn.Module]


@pytest.fixture
def awake() -> Awake:
    """Makes the same model each time, with values where it starts with zeros."""

    def make(config: RunConfig) -> nn.Module:
        torch.manual_seed(0)
        model: nn.Module = make_model(config)
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
        return model

    return make
