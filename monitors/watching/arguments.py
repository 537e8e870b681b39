"""What a loop hands over, checked: one clear line where it cannot be."""

import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...platform.errors import MoescopeError
from .measuring import Samples


def checked_loss(loss: Any, call: str) -> Tensor | float:
    """Returns the loss without its graph. Raises MoescopeError where it is not one number."""
    if loss is None:
        raise MoescopeError(f"run.{call}() needs the loss of the step: run.{call}(loss)")
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise MoescopeError(
                f"run.{call}() got a loss of shape {tuple(loss.shape)}: give its mean, and the "
                "losses of samples as per_sample="
            )
        return loss.detach().reshape(())
    if isinstance(loss, numbers.Real) or (isinstance(loss, np.ndarray) and loss.ndim == 0):
        return float(loss)
    raise MoescopeError(
        f"run.{call}() got a loss of type {type(loss).__name__}: give a tensor of one element, or "
        "a number"
    )


def checked_samples(
    per_sample: Any, sigma: Any, timestep: Any, num_timesteps: int
) -> Samples | None:
    """Raises MoescopeError where noise levels do not fit the losses of samples."""
    if per_sample is None:
        if sigma is not None or timestep is not None:
            name = "sigma" if sigma is not None else "timestep"
            raise MoescopeError(f"{name} is given without per_sample, whose noise levels it tells")
        return None
    if sigma is not None and timestep is not None:
        raise MoescopeError("sigma and timestep are both given: give one of them")
    loss_B = _vector(per_sample, "per_sample")
    sigma_B = None
    if sigma is not None:
        sigma_B = _vector(sigma, "sigma")
    elif timestep is not None:
        sigma_B = _vector(timestep, "timestep") / num_timesteps
    if sigma_B is not None and sigma_B.numel() != loss_B.numel():
        name = "sigma" if sigma is not None else "timestep"
        raise MoescopeError(
            f"{name} has {sigma_B.numel()} values for {loss_B.numel()} losses of samples: give one "
            "for each"
        )
    return Samples(loss_B, sigma_B)


def _vector(value: Any, name: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        raise MoescopeError(
            f"{name} is a {type(value).__name__}: give a tensor with a number for each sample"
        ) from None
    if tensor.dim() != 1:
        raise MoescopeError(
            f"{name} has shape {tuple(tensor.shape)}: give (B,), one number for each sample"
        )
    return tensor.float()
