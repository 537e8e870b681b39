"""A store's file is refused where it lies on a network file system."""

from pathlib import Path

import pytest

from moescope.platform.doctor import examine
from moescope.platform.errors import MoescopeError
from moescope.platform.network_store import Mount, mount_of, mounts_here, parsed
from moescope.platform.settings import Settings
from moescope.platform.store import open_store

WORKSTATION = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
31 27 0:27 / /net rw,relatime shared:2 - autofs systemd-1 rw,fd=29
88 31 0:52 / /net rw,relatime shared:3 master:7 - nfs4 files:/export/net rw,vers=4.2,addr=10.0.0.9
90 88 254:1 / /net/ann/scratch rw,noatime - xfs /dev/nvme0n1 rw
91 27 0:60 / /mnt/her\040big\011disk rw - cifs //files/ann rw,vers=3.1.1
92 27 0:61 / /mnt/caf\303\251 rw,relatime - fuse.sshfs ann@files: rw,user_id=1000
93 27 0:62 / /lustre rw - lustre mds@tcp:/work rw
94 27 0:63 / /data rw,relatime - fuse.ntfs-3g /dev/sdb1 rw
"""


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        pytest.param("/var/lib/store.db", "/", "ext4", id="the root holds what nothing else does"),
        pytest.param("/net/ann/store.db", "/net", "nfs4", id="the later of two at one point"),
        pytest.param("/net/ann/scratch/a/store.db", "/net/ann/scratch", "xfs", id="the longest"),
        pytest.param("/net/ann/scratches/store.db", "/net", "nfs4", id="whole names count"),
        pytest.param("/nets/store.db", "/", "ext4", id="a name that only begins alike"),
        pytest.param(
            "/mnt/her big\tdisk/store.db", "/mnt/her big\tdisk", "cifs", id="octal blanks"
        ),
        pytest.param("/mnt/café/store.db", "/mnt/café", "fuse.sshfs", id="octal bytes"),
        pytest.param("/lustre/ann/store.db", "/lustre", "lustre", id="a parallel file system"),
        pytest.param("/data/store.db", "/data", "fuse.ntfs-3g", id="FUSE that is local"),
    ],
)
def test_the_mount_that_holds_a_file_is_found(path: str, point: str, kind: str) -> None:
    assert mount_of(Path(path), parsed(WORKSTATION)) == Mount(point, kind)


def test_lines_that_are_none_are_passed_over() -> None:
    assert parsed("") == []
    assert parsed("nonsense\n1 2 3\n27 1 254:0 / / rw - \n27 1 254:0 / / rw") == []
    assert mount_of(Path("/a"), []) is None


def test_this_machine_tells_its_mounts() -> None:
    assert any(mount.point == "/" for mount in mounts_here())


def table(folder: Path, kind: str) -> str:
    escaped = str(folder).replace(" ", r"\040")
    return (
        "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"88 27 0:52 / {escaped} rw,relatime - {kind} files:/export rw\n"
    )


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "gpfs", "beegfs"])
def test_a_store_on_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with pytest.raises(MoescopeError, match=rf"network file system \({kind} at ") as error:
        open_store(url, mountinfo=table(tmp_path, kind))
    said = str(error.value)
    assert "\n" not in said
    assert "use PostgreSQL" in said
    assert "MOESCOPE_ALLOW_NETWORK_STORE=1" in said
    assert list(tmp_path.iterdir()) == []


def test_a_link_does_not_hide_where_the_file_lies(tmp_path: Path) -> None:
    far, near = tmp_path / "far away", tmp_path / "near"
    far.mkdir()
    near.symlink_to(far)
    with pytest.raises(MoescopeError, match=r"nfs4 at .*far away"):
        open_store(f"sqlite:///{near / 'store.db'}", mountinfo=table(far, "nfs4"))


def test_a_store_on_a_disk_or_by_a_word_of_the_user_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    open_store(url, mountinfo=table(tmp_path, "xfs")).close()
    monkeypatch.setenv("MOESCOPE_ALLOW_NETWORK_STORE", "1")
    with open_store(url, mountinfo=table(tmp_path, "nfs4")) as store:
        assert store.runs() == []


def test_the_doctor_says_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "mountinfo"
    here.write_text(table(tmp_path, "nfs4"))
    monkeypatch.setattr("moescope.platform.network_store._MOUNTINFO", here)
    findings = {found.name: found for found in examine(Settings(home=tmp_path / "home"))}
    assert findings["database"].state == "bad"
    assert "network file system (nfs4" in findings["database"].what
