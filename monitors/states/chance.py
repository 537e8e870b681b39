"""The random generators of this process: python's, numpy's global one, torch's and cuda's."""

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Returns plain values, arrays and tensors that a checkpoint can hold."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": {
            "kind": kind,
            "keys": np.asarray(keys, dtype=np.int64),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` returned; the given state stays untouched."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy = state["numpy"]
    np.random.set_state(
        (
            numpy["kind"],
            np.asarray(numpy["keys"]).astype(np.uint32),
            numpy["position"],
            numpy["has_gauss"],
            numpy["gauss"],
        )
    )
    torch.set_rng_state(state["torch"].clone())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([word.clone() for word in state["cuda"]])
