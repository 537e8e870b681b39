"""The public door of moescope: `train`, `watch`, `fit`, callbacks that watch, `__version__`.

Everything behind it is loaded when it is first used, so importing moescope loads neither torch nor
a database driver.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "LightningCallback",
    "TransformersCallback",
    "__version__",
    "fit",
    "train",
    "watch",
]

if TYPE_CHECKING:
    from .monitors.watching.lightning_callback import LightningCallback
    from .monitors.watching.transformers_callback import TransformersCallback
    from .monitors.watching.watch import watch
    from .studies.laws.law import fit
    from .trainer.run import train

_HOMES = {
    "LightningCallback": ".monitors.watching.lightning_callback",
    "TransformersCallback": ".monitors.watching.transformers_callback",
    "fit": ".studies.laws.law",
    "train": ".trainer.run",
    "watch": ".monitors.watching.watch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moescope' has no attribute {name!r}")
    import random
    from importlib import import_module

    # a library draws when it is loaded, and a training of somebody else's may be seeded already
    before = random.getstate()
    try:
        return getattr(import_module(_HOMES[name], __name__), name)
    finally:
        random.setstate(before)
