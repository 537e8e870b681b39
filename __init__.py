"""The public door of moescope: `train`, `watch`, `fit`, `__version__`.

Everything behind it is loaded when it is first used, so importing moescope loads neither torch nor
a database driver.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "fit", "train", "watch"]

if TYPE_CHECKING:
    from .monitors.watching.watch import watch
    from .studies.laws.law import fit
    from .trainer.run import train


def __getattr__(name: str) -> Any:
    if name == "fit":
        from .studies.laws.law import fit

        return fit
    if name == "train":
        from .trainer.run import train

        return train
    if name == "watch":
        import random

        # a library draws when it is loaded, and a training of somebody else's may be seeded already
        before = random.getstate()
        from .monitors.watching.watch import watch

        random.setstate(before)
        return watch
    raise AttributeError(f"module 'moescope' has no attribute {name!r}")
