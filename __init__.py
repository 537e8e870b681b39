"""The public door of moescope: `train`, `__version__`.

Everything behind it is loaded when it is first used, so importing moescope loads neither torch nor
a database driver.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "train"]

if TYPE_CHECKING:
    from .trainer.run import train


def __getattr__(name: str) -> Any:
    if name == "train":
        from .trainer.run import train

        return train
    raise AttributeError(f"module 'moescope' has no attribute {name!r}")
