"""Decoding ahead of the step, in processes that stay: what is wanted can change at any moment and
costs nothing.
"""

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait

from ...platform.errors import MoescopeError
from ..config import DataConfig
from .decode import DecodedSample
from .decode_worker import Answer, Failure, Task

# a worker decodes one task while the next one lies ready for it
MOST_AT_A_WORKER = 2
# a clip that takes longer than that hangs its decoder
PATIENCE_S = 120.0
DEATHS_OF_A_BAD_CLIP = 2
# processes in a row that may fail to start before decoding is given up
MOST_FAILED_STARTS = 3
STARTUP = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from {module} import serve; serve(int(sys.argv[1]), int(sys.argv[2]))"
)

Key = tuple[int, str]


class DecodePool:
    """Persistent decoding processes and the samples that they have ready.

    One thread of the pool talks to the processes; `want` and `take` may be called from one other
    thread. A process that dies is replaced and its task tried again; a clip that kills or hangs two
    in a row is a Failure from then on.
    """

    def __init__(self, data: DataConfig, seed: int) -> None:
        self._data, self._seed = data, seed
        self._lock = threading.Condition()
        self._waiting: deque[Task] = deque()
        self._wanted: set[Key] = set()
        self._ready: dict[Key, DecodedSample | Failure] = {}
        self._deaths: dict[str, int] = {}
        self._failed_starts = 0
        self._broken = ""
        self._is_closing = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._workers = [_Worker(data, seed) for _ in range(data.workers)]
        self._thread = threading.Thread(target=self._pump, name="decode-pool", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def want(self, tasks: Sequence[Task]) -> None:
        """Says what is needed next, in this order; what else was asked for is forgotten."""
        with self._lock:
            self._wanted = {_key(task) for task in tasks}
            self._ready = {key: found for key, found in self._ready.items() if key in self._wanted}
            under_way = {_key(task) for worker in self._workers for task in worker.tasks}
            known = under_way | self._ready.keys()
            self._waiting = deque(task for task in tasks if _key(task) not in known)
        self._wake()

    def take(self, task: Task) -> DecodedSample | Failure:
        """Returns the sample or why there is none. Waits; what was not wanted goes first."""
        key = _key(task)
        with self._lock:
            if key not in self._wanted:
                self._wanted.add(key)
                if not any(
                    key == _key(other) for worker in self._workers for other in worker.tasks
                ):
                    self._waiting.appendleft(task)
                self._wake()
            while key not in self._ready or self._is_closing:
                if self._deaths.get(task.clip.name, 0) >= DEATHS_OF_A_BAD_CLIP:
                    self._wanted.discard(key)
                    return Failure("its decoding process died or hung, twice")
                if self._broken or self._is_closing:
                    raise MoescopeError(self._broken or "the decoding processes were closed")
                self._lock.wait()
            self._wanted.discard(key)
            return self._ready.pop(key)

    def process_ids(self) -> list[int]:
        """Returns the ids of the decoding processes that are there now."""
        with self._lock:
            return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Ends all processes and waits for them. May be called twice."""
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
            self._lock.notify_all()
        atexit.unregister(self.close)
        self._wake()
        self._thread.join()
        self._wake_in.close()
        self._wake_out.close()
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.end()

    def _wake(self) -> None:
        # full: the thread wakes anyway; closed: whoever waits is told so
        with contextlib.suppress(OSError):
            self._wake_in.send(b"w")

    def _pump(self) -> None:
        try:
            while not self._is_closing:
                self._hand_out()
                by_connection = {worker.connection: worker for worker in self._workers}
                for source in wait([self._wake_out, *by_connection], timeout=1.0):
                    if source is self._wake_out:
                        self._wake_out.recv(4096)
                    else:
                        self._hear(by_connection[source])  # type: ignore[index]
                for worker in self._workers:
                    if worker.tasks and time.monotonic() - worker.busy_since_s > PATIENCE_S:
                        worker.process.kill()
        except ChildProcessError:
            return
        except Exception as error:  # whoever waits for a sample must hear of it
            self._give_up(f"decoding stopped: {type(error).__name__}: {error}")

    def _hand_out(self) -> None:
        with self._lock:
            for _ in range(MOST_AT_A_WORKER):
                for worker in self._workers:
                    if len(worker.tasks) < MOST_AT_A_WORKER and worker.is_ready:
                        self._send_next(worker)

    def _send_next(self, worker: "_Worker") -> None:
        while self._waiting:
            task = self._waiting.popleft()
            if self._deaths.get(task.clip.name, 0) < DEATHS_OF_A_BAD_CLIP:
                worker.send(task)
                return

    def _hear(self, worker: "_Worker") -> None:
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return
        with self._lock:
            if not isinstance(answer, Answer):
                worker.is_ready, self._failed_starts = True, 0
                return
            worker.tasks.popleft()
            worker.busy_since_s = time.monotonic()
            self._deaths.pop(answer.name, None)
            key = (answer.position, answer.name)
            if key in self._wanted:
                self._ready[key] = answer.outcome
                self._lock.notify_all()

    def _replace(self, worker: "_Worker") -> None:
        """Starts another process for one that died; the clip that it was at is tried once more."""
        worker.end()
        self._failed_starts += not worker.is_ready
        if self._failed_starts >= MOST_FAILED_STARTS:
            self._give_up(f"decoding does not start (exit code {worker.process.returncode})")
            raise ChildProcessError
        with self._lock:
            if worker.tasks:
                name = worker.tasks[0].clip.name
                self._deaths[name] = self._deaths.get(name, 0) + 1
            lost = [task for task in worker.tasks if _key(task) in self._wanted]
            self._waiting.extendleft(reversed(lost))
            self._workers[self._workers.index(worker)] = _Worker(self._data, self._seed)
            self._lock.notify_all()

    def _give_up(self, why: str) -> None:
        with self._lock:
            self._broken = why
            self._lock.notify_all()


class _Worker:
    """One process, its end of the socket and what it was given."""

    def __init__(self, data: DataConfig, seed: int) -> None:
        ours, theirs = socket.socketpair()
        command = STARTUP.format(module=f"{__package__}.decode_worker")
        # one thread each for the maths libraries: the step needs the other cores
        one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
        descriptor = theirs.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, str(descriptor), str(os.getpid()), *sys.path],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            # a group of its own: Ctrl-C on a terminal goes to the trainer alone
            process_group=0,
            env={**os.environ, **one_thread},
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        self.connection.send((data, seed))
        self.is_ready = False
        self.tasks: deque[Task] = deque()
        self.busy_since_s = time.monotonic()

    def send(self, task: Task) -> None:
        if not self.tasks:
            self.busy_since_s = time.monotonic()
        self.tasks.append(task)
        try:
            self.connection.send(task)
        except OSError:
            # it is dead; the pump finds the closed socket and takes its tasks back
            return

    def end(self) -> None:
        """Closes the socket, on which the process ends by itself; after a second it is killed."""
        self.connection.close()
        try:
            self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _key(task: Task) -> Key:
    return task.position, task.clip.name
