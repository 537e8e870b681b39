"""A store in a file must lie on a disk of this machine: over a network file system SQLite's locks
and its shared memory do not hold, and a store that two machines write is damaged sooner or later
(sqlite.org/wal.html, facts: tracking.md 5.4).
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .errors import MoescopeError
from .settings import Settings

OVERRULED_BY = "MOESCOPE_ALLOW_NETWORK_STORE"
NETWORK_KINDS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb", "smbfs", "smb2", "smb3", "smb3x", "ncpfs", "9p", "afs"),
        *("lustre", "gpfs", "mmfs", "beegfs", "pvfs2", "orangefs", "panfs", "wekafs", "gfs2"),
        *("ocfs2", "ceph", "glusterfs", "davfs", "coda", "afpfs", "macfuse", "osxfuse"),
        *("fuse.sshfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.moosefs"),
        *("fuse.lizardfs", "fuse.juicefs", "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys"),
        *("fuse.mount-s3", "fuse.rclone", "fuse.davfs2", "fuse.beegfs", "fuse.cvmfs2"),
        *("fuse.hdfs", "fuse.smbnetfs", "fuse.curlftpfs", "fuse.blobfuse", "fuse.blobfuse2"),
    }
)
_MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    point: str
    """Where it hangs, as an absolute path."""
    kind: str
    """Type of the file system, as the kernel calls it."""


def refuse_network_store(file: Path, mountinfo: str | None = None) -> None:
    """Raises MoescopeError where a store's file lies on a network file system, unless
    MOESCOPE_ALLOW_NETWORK_STORE is set. The file need not exist.

    mountinfo: text of the mount table; None reads this machine's.
    """
    try:
        # following a link may mount what it leads to, so the table is read after that
        real = file.absolute().resolve()
    except (OSError, RuntimeError):
        return  # opening it says what is wrong with the path
    mounts = mounts_here() if mountinfo is None else parsed(mountinfo)
    mount = mount_of(real, mounts)
    if mount is None or mount.kind not in NETWORK_KINDS or Settings().allow_network_store:
        return
    raise MoescopeError(
        f"store {file} lies on a network file system ({mount.kind} at {mount.point}), where SQLite "
        "loses data: use PostgreSQL (--store postgresql://...) or a disk of this machine "
        f"({OVERRULED_BY}=1 if you know better)"
    )


def mounts_here() -> list[Mount]:
    """What is mounted here, in the order of mounting; empty where that cannot be told."""
    try:
        return parsed(_MOUNTINFO.read_text(errors="surrogateescape"))
    except OSError:
        pass  # no Linux
    import psutil

    try:
        return [Mount(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)]
    except OSError:
        return []


def parsed(mountinfo: str) -> list[Mount]:
    """Reads a mount table. A line is `36 35 98:0 /root /point options optional... - kind source
    options` (proc_pid_mountinfo(5)); blanks in a point are octal: `\\040`. Other lines are passed
    over.
    """
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        head, tail = before.split(" "), after.split(" ")
        if len(head) >= 6 and tail[0]:
            found.append(Mount(_decoded(head[4]), tail[0]))
    return found


def mount_of(path: Path, mounts: Iterable[Mount]) -> Mount | None:
    """The mount that holds an absolute path without links: the longest point above it, and of two
    at one point the later one, which hides the other.
    """
    best: Mount | None = None
    for mount in mounts:
        is_above = path.is_relative_to(mount.point)
        if is_above and (
            best is None or len(Path(mount.point).parts) >= len(Path(best.point).parts)
        ):
            best = mount
    return best


def _decoded(point: str) -> str:
    """Octal escapes stand for bytes, so that one character may be several of them."""
    parts = [
        bytes([int(word, 8)]) if index % 2 else word.encode("utf-8", "surrogateescape")
        for index, word in enumerate(_OCTAL.split(point))
    ]
    return b"".join(parts).decode("utf-8", "surrogateescape")
