"""The health of a state on disk, in a file beside it; a state without one counts as fresh."""

import json
import os
from pathlib import Path

from ...platform.records import Health

HEALTH = "health.json"


def write_health(folder: Path, health: Health) -> None:
    """Records the health of the state in `folder`.

    Raises OSError where it cannot be written. The old stamp is removed then, as a certificate that
    was revoked must not be read again: the state counts as fresh, the careful reading.
    """
    partial = folder / f".{HEALTH}.partial"
    try:
        partial.write_text(json.dumps({"health": health}))
        os.replace(partial, folder / HEALTH)
    except OSError:
        (folder / HEALTH).unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
        raise


def read_health(folder: Path) -> Health:
    try:
        health: Health = json.loads((folder / HEALTH).read_text())["health"]
    except (OSError, ValueError, KeyError):
        return "fresh"
    return health
