"""The demo, as a stranger runs it: every stage must really happen, within five minutes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.story


def test_the_demo_alerts_goes_back_passes_over_and_recovers(tmp_path: Path) -> None:
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "moescope.cli", "demo", "--headless", "--home", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[0].startswith("dashboard  http://127.0.0.1:") or (
        "http://127.0.0.1:" in done.stdout.splitlines()[0]
    )
    for stage in ("corrupt clips", "onset, alarm", "went back", "passed over", "loss"):
        assert stage in done.stdout
    assert "NO " not in done.stdout
    assert time.monotonic() - start_s < 300
