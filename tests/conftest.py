"""Fixtures for all tests, and the demand for PostgreSQL where continuous integration makes it."""

import fcntl
import gc
import multiprocessing
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from moescope.platform.store import Store

POSTGRES_URL = "postgresql://postgres@127.0.0.1:5432/test"


def pytest_sessionstart() -> None:
    # millions of objects are imported, and all of them stay: looking through them for garbage time
    # and again takes a fifth of the collection of tests
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the home, the store or the addresses of whoever runs it."""
    for name in list(os.environ):
        if name.startswith("MOESCOPE_") and not name.startswith("MOESCOPE_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MOESCOPE_HOME", str(tmp_path / "home"))


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Fills memory that nobody wrote with NaN, inside torch's operators too, for the length of a
    test.

    A test of tensor code must not pass by the luck of fresh zeros. torch fills its uninitialised
    memory in deterministic mode; it is imported here, so that tests without tensors do not wait
    for it.
    """
    import torch

    was_on = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(was_on)


@pytest.fixture
def mirror_at_once() -> Callable[[str, str, Sequence[str], Sequence[Path]], None]:
    """Lets processes mirror the same runs into MLflow, each run by all of them at the same moment.

    Takes the address, the project, the runs' ids, and a folder for the locks of each process.
    """
    script = Path(__file__).parent / "contracts" / "mirror_at_once.py"

    def mirror(url: str, project: str, run_ids: Sequence[str], folders: Sequence[Path]) -> None:
        processes = []
        for folder in folders:
            folder.mkdir(exist_ok=True)
            command = [sys.executable, "-W", "ignore", str(script), url, project]
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
                env={**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
            )
            processes.append(process)
        try:
            for i, run_id in enumerate(["", *run_ids]):
                for k, process in enumerate(processes):
                    # the first line warms each up, with a run of its own
                    assert process.stdin is not None
                    process.stdin.write(f"{k if i == 0 else run_id}\n")
                for process in processes:
                    assert process.stdout is not None
                    assert process.stdout.readline() == ("ready\n" if i == 0 else "done\n")
        finally:
            for process in processes:
                process.communicate(timeout=30)

    return mirror


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where MOESCOPE_TEST_REQUIRE_POSTGRES or _SLURM is set, a test that was skipped for want of it
    has failed."""
    report = yield
    for service in ("postgres", "slurm"):
        name = f"MOESCOPE_TEST_REQUIRE_{service.upper()}"
        is_demanded = os.environ.get(name, "") not in ("", "0")
        if is_demanded and report.skipped and item.get_closest_marker(service):
            report.outcome = "failed"
            report.longrepr = f"{service} is demanded here ({name}), but {item.name} was skipped"
    return report


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """The address of the server that tests may use; each makes a schema of its own there."""
    import psycopg

    url = os.environ.get("MOESCOPE_TEST_POSTGRES_URL", POSTGRES_URL)
    try:
        psycopg.connect(url, connect_timeout=3).close()
    except psycopg.OperationalError as error:
        if "FATAL" in str(error):  # a server that answers, if only to say no, is no reason to skip
            raise
        pytest.skip(f"no PostgreSQL server answers at {url}: {error}")
    return url


@contextmanager
def _schema(server: str) -> Iterator[str]:
    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    # nothing of a test need survive a power cut
    options = f"options=-csearch_path%3D{name}%20-csynchronous_commit%3Doff"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{name}"')
        try:
            yield f"{server}{'&' if '?' in server else '?'}{options}"
        finally:
            connection.execute(f'DROP SCHEMA "{name}" CASCADE')


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The address of a schema of PostgreSQL in which there is nothing."""
    with _schema(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def _kept_postgres_url(postgres_server: str) -> Iterator[str]:
    """A store that is made once, since making its tables takes longer than most tests."""
    with _schema(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def _made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from moescope.platform.store import open_store

    path = tmp_path_factory.mktemp("made") / "store.db"
    open_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def put_store(_made_store: Path) -> Callable[[Path], str]:
    """Puts an embedded store without runs at a path, with its folder; returns its address.

    The tables are made once: making them takes longer than most of the tests that need them.
    """

    def put(path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_made_store, path)
        return f"sqlite:///{path}"

    return put


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow database to copy, made once for all workers: its migrations take about ten
    seconds."""
    from moescope.platform.mlflow_door import make_database

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which all workers share
    path = folder / "mlflow.db"
    with (folder / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_database(f"sqlite:///{path}")
    return path


_PRELUDE = """
import os, sys
os.environ.clear()
os.environ.update({environment!r})
sys.argv = {argv!r}
sys.stdout = sys.stderr = open({log!r}, "w", buffering=1)
"""


@pytest.fixture(scope="session")
def run_script(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, str]]:
    """Runs a script to its end in a process of its own; returns (exit code, what it said).

    The exit code is the negative number of the signal that ended it. The process is forked from
    one that has done nothing but import the trainer: that takes five seconds, and a script that is
    there to be killed runs for one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["moescope.trainer.run", "torch._dynamo"])

    def run(script: str, *argv: str) -> tuple[int, str]:
        log = tmp_path_factory.mktemp("script") / "log"
        said = {"environment": dict(os.environ), "argv": ["-c", *argv], "log": str(log)}
        process = context.Process(
            target=exec, args=(_PRELUDE.format(**said) + script, {"__name__": "__script__"})
        )
        with pytest.MonkeyPatch.context() as patch:
            # what is __main__ here would be run there: pytest, or a page that Streamlit ran last
            patch.setitem(sys.modules, "__main__", ModuleType("__main__"))
            process.start()
        process.join()
        exit_code = process.exitcode
        process.close()
        assert exit_code is not None
        return exit_code, log.read_text()

    return run


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store_url(
    request: pytest.FixtureRequest, tmp_path: Path, put_store: Callable[[Path], str]
) -> str:
    """The address of a store without runs, of each kind in turn."""
    if request.param == "sqlite":
        return put_store(tmp_path / "store.db")
    from moescope.platform.store import open_store
    from moescope.platform.tables import metadata

    url: str = request.getfixturevalue("_kept_postgres_url")
    with open_store(url) as kept:
        for table in reversed(metadata.sorted_tables):
            kept.database.write(lambda c, table=table: c.execute(table.delete()))  # type: ignore[misc]
    return url


@pytest.fixture
def store(store_url: str) -> Iterator["Store"]:
    """An open, empty store, of each kind in turn."""
    from moescope.platform.store import open_store

    with open_store(store_url) as opened:
        yield opened


@pytest.fixture(scope="session")
def save_vae() -> Callable[..., Path]:
    return save_wan_vae


@pytest.fixture(scope="session")
def save_pictures_vae() -> Callable[..., Path]:
    return save_image_vae


@pytest.fixture(scope="session")
def save_text() -> Callable[..., Path]:
    return save_text_encoder


def save_wan_vae(folder: Path, channels: int = 4, seed: int = 0) -> Path:
    """A causal video VAE with random weights: cells of 4 frames and 4 x 4 pixels."""
    import diffusers
    import torch

    torch.manual_seed(seed)
    diffusers.AutoencoderKLWan(
        base_dim=8,
        z_dim=channels,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.1] * channels,
        latents_std=[0.5] * channels,
    ).save_pretrained(folder)
    return folder


def save_image_vae(folder: Path) -> Path:
    """A VAE of pictures with random weights: cells of 2 x 2 pixels."""
    import diffusers
    import torch

    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.7,
        shift_factor=0.2,
    ).save_pretrained(folder)
    return folder


def save_text_encoder(folder: Path, kind: str = "umt5", width: int = 16) -> Path:
    """A T5 with random weights and its tokenizer, a token for each letter, in a pipeline's two
    folders."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    torch.manual_seed(0)
    of_kind: Any = {"umt5": transformers.UMT5Config, "t5": transformers.T5Config}[kind]
    config = of_kind(vocab_size=64, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    model: Any = {"umt5": transformers.UMT5EncoderModel, "t5": transformers.T5EncoderModel}[kind]
    model(config).save_pretrained(folder / "text_encoder")
    letters = "_ abcdefghijklmnopqrstuvwxyz0123456789.,-"
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{c: i + 3 for i, c in enumerate(letters)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "tokenizer")
    return folder


@contextmanager
def _no_file_above(num_bytes: int) -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # as Python has it already, but for whoever started it otherwise: the signal would end it
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


@pytest.fixture
def no_file_above() -> Callable[[int], AbstractContextManager[None]]:
    """A disk that refuses: inside, no file of this process grows beyond a size, and the libraries
    that write meet the true error."""
    return _no_file_above
