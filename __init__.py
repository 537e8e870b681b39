"""The public door of moescope: `train`, `fit`, `__version__`.

Everything behind it is loaded when it is first used, so importing moescope loads neither torch nor
a database driver.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "fit", "train"]

if TYPE_CHECKING:
    from .studies.laws.law import fit
    from .trainer.run import train


def __getattr__(name: str) -> Any:
    if name == "fit":
        from .studies.laws.law import fit

        return fit
    if name == "train":
        from .trainer.run import train

        return train
    raise AttributeError(f"module 'moescope' has no attribute {name!r}")
