"""The VAE and text encoder of a run: the models that its data was encoded with, and no others."""

from pathlib import Path
from typing import Literal

from ...platform.errors import MoescopeError
from ...platform.frozen import changed
from ...platform.records import Run
from ..config import RunConfig
from ..data.encoding import Encoding
from ..data.shards import is_encoded, kept_encoding, read_encoding
from .local import fingerprint, model_folder

Key = Literal["vae", "text_encoder"]


def with_encoder(config: RunConfig, run: Run, key: Key, given: str = "") -> RunConfig:
    """Returns a run's configuration with the folder of its VAE or text encoder: the one given, else
    what the key of `data` says, else where the model was when the data was encoded.

    A run that was trained without one is left as it is. Raises MoescopeError where it is given one
    nevertheless, where the model is not there, and where it is not the one that the data was
    encoded with.
    """
    option = f"--{key.replace('_', '-')}"
    is_read = config.data.latents == "vae" if key == "vae" else config.data.captions == "encoder"
    if not is_read:
        if given:
            raise MoescopeError(
                f"{option} does not go with run {run.name}: it was trained without one"
            )
        return config
    encoding = _encoding_of(config, run)
    used = getattr(encoding, key, None)
    said = given or getattr(config.data, key) or (used.path if used is not None else "")
    folder = model_folder(said, key, option if given else f"data.{key}")
    if used is not None and fingerprint(folder) != used.fingerprint:
        raise MoescopeError(
            f"the model in {folder} is not the one that the data of run {run.name} was encoded "
            f"with, which was in {used.path}: name that one"
        )
    return changed(config, {f"data.{key}": str(folder)})


def _encoding_of(config: RunConfig, run: Run) -> Encoding | None:
    """Returns what a run keeps of its data's encoding, whatever became of the data since; that of
    its data where it has only begun."""
    kept, data = kept_encoding(Path(run.folder)), Path(config.data.folder).expanduser()
    return read_encoding(data) if kept is None and is_encoded(data) else kept
