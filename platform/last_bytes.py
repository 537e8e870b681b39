"""Files that outlast a power cut, and how one knows that they are whole."""

import hashlib
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Brings a file's content to the disk, or a folder's names: without the latter a power cut may
    leave a content without a name. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    """BLAKE2b of a file's content, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).hexdigest()
