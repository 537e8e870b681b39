"""The doctor names what is wrong, says what to do, and touches nothing."""

import json
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest

from moescope.platform import doctor
from moescope.platform.doctor import Finding, examine
from moescope.platform.migrate import versions
from moescope.platform.records import Alert, Run
from moescope.platform.settings import Settings
from moescope.platform.store import open_store

# apprise 2.2 looks for imghdr, which Python 3.13 no longer has; goes when apprise stops looking
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_torch_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking torch for its device takes seconds: one test does it."""
    if "device" not in request.node.name:
        monkeypatch.setattr(doctor, "_device", lambda: Finding("device", "good", "", ""))


def found(settings: Settings, name: str) -> Finding:
    (finding,) = [finding for finding in examine(settings) if finding.name == name]
    return finding


def test_every_line_that_is_not_good_says_what_to_do(tmp_path: Path) -> None:
    findings = examine(Settings(home=tmp_path))
    names = " ".join(finding.name for finding in findings)
    assert names == "python torch device codecs home disk database mlflow service alerts browser"
    assert all(finding.todo for finding in findings if finding.state != "good")
    assert all("\n" not in finding.what for finding in findings)
    json.dumps([asdict(finding) for finding in findings])


def test_the_device_is_told_without_loading_torch_here(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from moescope.platform import doctor; "
        "print(doctor._device().what, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("False")
    assert "processors" in done.stdout or "CUDA" in done.stdout


def test_a_store_that_is_there_is_good_and_one_that_is_not_is_not_made(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert found(settings, "database").what.endswith("made when first used")
    assert not (tmp_path / "store.db").exists()
    open_store(settings.store_url).close()
    assert found(settings, "database").state == "good"


def test_a_damaged_store_is_bad(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"no database at all" * 500)
    finding = found(Settings(home=tmp_path), "database")
    assert finding.state == "bad"
    assert "not a database" in finding.what


def test_a_locked_store_is_bad(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    open_store(settings.store_url).close()
    lock = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    finding = found(settings, "database")
    lock.execute("ROLLBACK")
    lock.close()
    assert finding.state == "bad"
    assert "locked" in finding.what


def test_a_server_that_is_not_there_is_bad_and_its_password_is_not_shown(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"postgresql://ann:secret@127.0.0.1:{port}/moescope"
    finding = found(Settings(home=tmp_path, store=url), "database")
    assert finding.state == "bad"
    assert "refused" in finding.what
    assert "secret" not in finding.what


def test_a_nonsense_address_is_bad(tmp_path: Path) -> None:
    finding = found(Settings(home=tmp_path, store="mysql://somewhere"), "database")
    assert finding.state == "bad"
    assert "sqlite:///FILE" in finding.what


def test_a_home_that_cannot_be_made_is_bad(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = found(Settings(home=tmp_path / "file" / "home"), "home")
    assert finding.state == "bad"


def test_an_mlflow_that_does_not_answer_only_delays_the_mirror(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    finding = found(Settings(home=tmp_path, mlflow=f"http://127.0.0.1:{port}"), "mlflow")
    assert finding.state == "optional"
    assert "does not answer" in finding.what


@pytest.mark.parametrize("address", ["ftp://somewhere", "http://", "http://h:port", "yes"])
def test_an_mlflow_address_of_no_known_kind_is_bad(tmp_path: Path, address: str) -> None:
    finding = found(Settings(home=tmp_path, mlflow=address), "mlflow")
    assert finding.state == "bad"
    assert address in finding.what
    assert "sqlite:///FILE" in finding.todo


def test_mlflow_that_is_off_or_a_file_is_good(tmp_path: Path) -> None:
    for address in ("off", f"sqlite:///{tmp_path / 'mlflow.db'}"):
        assert found(Settings(home=tmp_path, mlflow=address), "mlflow").state == "good"


def test_a_store_that_is_newer_than_the_program_is_bad(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    open_store(settings.store_url).close()
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as connection:
        connection.execute("UPDATE moescope_version SET version_num = '9999'")
    finding = found(settings, "database")
    assert finding.state == "bad"
    assert "newer than this program" in finding.what
    assert "update moescope" in finding.todo


def test_a_file_with_the_tables_of_something_else_is_bad(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        connection.execute("CREATE TABLE experiments (id INTEGER)")
    finding = found(Settings(home=tmp_path), "database")
    assert finding.state == "bad"
    assert "something else" in finding.what


@pytest.mark.postgres
def test_an_older_store_on_a_server_is_bad_until_it_is_upgraded(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, store=postgres_url)
    assert found(settings, "database").state == "good"
    open_store(postgres_url).close()
    assert found(settings, "database").state == "good"
    monkeypatch.setattr(doctor, "versions", lambda: [*versions(), "9999"])
    assert found(settings, "database").todo == "moescope db upgrade"


def test_an_address_to_notify_that_cannot_be_read_is_bad(tmp_path: Path) -> None:
    assert found(Settings(home=tmp_path, notify="nosuch://x"), "alerts").state == "bad"
    assert found(Settings(home=tmp_path, notify="json://localhost"), "alerts").state == "good"


def test_a_look_that_fails_is_a_finding_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Finding:
        raise ImportError("libavcodec.so is missing")

    monkeypatch.setattr(doctor, "_codecs", broken)
    finding = found(Settings(home=tmp_path), "codecs")
    assert (finding.state, finding.what) == ("bad", "ImportError: libavcodec.so is missing")


def test_a_channel_that_fails_is_bad_until_the_alert_went_out(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, notify="json://127.0.0.1:9")
    with open_store(settings.store_url) as store:
        store.add_run(Run("r1", "run", "p", {}, "running", "cpu", "0", 1.0, 1.0))
        now_s = time.time()
        store.put_alert(
            Alert("a1", "r1", 0, "spike", "critical", 1, 1, 9.0, 4.0, "up", now_s, "a1")
        )
        store.mark_delivered("a1", now_s, "JSON: connection refused")
        found = doctor._alerts(settings)
        assert found.state == "bad"
        assert found.what.endswith("could not be sent: JSON: connection refused")
        assert "test-channel" in found.todo
        store.mark_delivered("a1", now_s)
        assert doctor._alerts(settings).state == "good"
