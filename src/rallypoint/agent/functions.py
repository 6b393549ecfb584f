"""Functions as workers: how a call travels to a process of its own, and its return value back.

A spawned call is a fresh interpreter that :mod:`multiprocessing` itself prepares: the same command line, the same
preparation, the same pickled process object, over a pipe that only that child holds. What differs from
``Process.start`` is who starts it: like a command, the worker has its whole environment and its own streams from the
first instruction on, and a session of its own. The return value comes back through a file without a name, which the
child inherits and the agent reads after its end: a value of any size keeps nobody waiting::

    agent ── pipe: preparation, process object ──▶ child ── runs the function, writes the value
      ╰──────── file without a name ◀─────────────────╯         (exit code 0: the value counts)

Both ends are one user's processes on one host, tied by descriptors that nobody else has. Nothing that came over a
network is ever unpickled.

A forked call (``start_method="fork"``) is a copy of this process: closures and whatever was loaded are there, the
locks and threads of the copied process are not. ``"forkserver"`` is taken for ``"spawn"``: the children of a fork
server are not the agent's, so it could neither learn their exit codes by itself nor keep their numbers from strangers.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import context, reduction, resource_tracker, spawn
from typing import Any

from rallypoint.agent.calls import FunctionCall
from rallypoint.agent.failure import record
from rallypoint.errors import AgentError

__all__ = ["FunctionProcess", "check_call", "read_value", "start_call"]


def check_call(call: FunctionCall) -> None:
    """Refuse a call that could never be sent, before anything has been started for it.

    Raises:
        AgentError: if workers could not load this program's main module, because it came from no file.
        Exception: what ``pickle`` raises for it; the message names the way out.
    """
    if call.is_forked:
        return
    main = spawn.get_preparation_data("check").get("init_main_from_path")
    if main is not None and not os.path.exists(main):  # noqa: PTH110 - multiprocessing's own text
        raise AgentError(
            f"workers cannot load this program, because {main} is no file: put {call.name} into one,"
            " or use start_method='fork'"
        )
    try:
        _pack(call, _Passport())
    except Exception as error:
        if hasattr(error, "add_note"):
            error.add_note(
                f"{call.name} and its arguments travel to another process: use what can be imported by name,"
                " or start_method='fork'"
            )
        raise


# --- the agent's side --------------------------------------------------------------------------------------


class FunctionProcess:
    """A started call, to be treated like a ``subprocess.Popen``.

    Attributes:
        pid: its process id.
    """

    def __init__(self, process: subprocess.Popen[bytes] | _Copy, descriptors: tuple[int, ...]) -> None:
        self.pid = process.pid
        self._process = process
        self._value_fd, *_ = self._descriptors = descriptors

    def poll(self) -> int | None:
        """Give the exit code, or the negative number of the signal that ended it; ``None`` while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait for its end and reap it."""
        return self._process.wait()

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def value(self) -> bytes:
        """Give what it returned, packed; empty if it left without returning. Only after its end."""
        size = os.fstat(self._value_fd).st_size
        os.lseek(self._value_fd, 0, os.SEEK_SET)
        with open(self._value_fd, "rb", closefd=False) as file:
            return file.read(size)

    def close(self) -> None:
        """Let go of what ties it to this process; calling it twice does no harm."""
        descriptors, self._descriptors = self._descriptors, ()
        for descriptor in descriptors:
            os.close(descriptor)


class _Copy:
    """A forked child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._returncode: int | None = None

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        returncode = self._reap(0)
        assert returncode is not None, "a wait ends with the child"
        return returncode

    def kill(self) -> None:
        if self._returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _reap(self, options: int) -> int | None:
        if self._returncode is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:  # other code in this process has reaped it
                self._returncode = 0
                return self._returncode
            if pid:
                self._returncode = os.waitstatus_to_exitcode(status)
        return self._returncode


def read_value(packed: bytes) -> Any:
    """Unpack what a worker returned; ``None`` for one that left without returning.

    Raises:
        AgentError: if this process cannot make anything of it.
    """
    if not packed:
        return None
    try:
        return reduction.ForkingPickler.loads(packed)
    except Exception as error:
        raise AgentError(f"the return value of a worker cannot be read: {type(error).__name__}: {error}") from error


def start_call(call: FunctionCall, env: Mapping[str, str], stdout: int, stderr: int) -> FunctionProcess:
    """Start a call, in a session and process group of its own.

    Args:
        call: what to call.
        env: the complete environment.
        stdout: the descriptor for its standard output, or ``subprocess.DEVNULL``.
        stderr: as ``stdout``, for standard error.

    Raises:
        OSError: if the process cannot be started.
        Exception: what ``pickle`` raises if the call cannot be sent.
    """
    value_fd = _nameless_file()
    try:
        return (_fork if call.is_forked else _spawn)(call, env, stdout, stderr, value_fd)
    except BaseException:
        os.close(value_fd)
        raise


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("rallypoint-value", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class _Passport:
    """Stands for the process to be spawned while its parcel is packed: collects the descriptors that go with it."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        """Take a descriptor along; the child has it under the same number."""
        self.descriptors.append(descriptor)
        return descriptor

    class DupFd:
        """A descriptor as the child finds it."""

        def __init__(self, descriptor: int) -> None:
            self.descriptor = descriptor

        def detach(self) -> int:
            """Give its number."""
            return self.descriptor


@contextmanager
def _spawning(passport: _Passport) -> Iterator[None]:
    """Allow what may only be pickled on its way to a child: locks, queues, shared memory."""
    context.set_spawning_popen(passport)  # type: ignore[arg-type]
    try:
        yield
    finally:
        context.set_spawning_popen(None)


def _pack(call: FunctionCall, passport: _Passport) -> bytes:
    with _spawning(passport):
        return bytes(reduction.ForkingPickler.dumps((call.function, call.args)))


_packing = threading.Lock()
"""Several workers start at once, but pickling runs the user's code, which need not expect that."""


def _spawn(call: FunctionCall, env: Mapping[str, str], stdout: int, stderr: int, value_fd: int) -> FunctionProcess:
    passport = _Passport()
    with _packing:
        packed = _pack(call, passport)
        process = multiprocessing.get_context("spawn").Process(target=_work, args=(call.name, packed, value_fd))
        parcel = io.BytesIO()
        with _spawning(passport):
            reduction.dump(spawn.get_preparation_data(process.name), parcel)
            reduction.dump(process, parcel)
        tracker_fd = resource_tracker.getfd()
        assert tracker_fd is not None, "asking for the descriptor starts the tracker"
    reader, writer = os.pipe()
    try:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter
            spawn.get_command_line(tracker_fd=tracker_fd, pipe_handle=reader),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(*passport.descriptors, tracker_fd, reader, value_fd),
            start_new_session=True,
        )
    except BaseException:
        os.close(writer)
        raise
    finally:
        os.close(reader)
    # A thread, because the pipe takes a small part only until the child reads.
    threading.Thread(target=_deliver, args=(os.dup(writer), parcel), name="rallypoint-parcel", daemon=True).start()
    return FunctionProcess(child, (value_fd, writer))


def _deliver(writer: int, parcel: io.BytesIO) -> None:
    with contextlib.suppress(OSError), open(writer, "wb", buffering=0) as pipe:
        left = parcel.getbuffer()
        while left:
            left = left[pipe.write(left) :]


def _fork(call: FunctionCall, env: Mapping[str, str], stdout: int, stderr: int, value_fd: int) -> FunctionProcess:
    process = multiprocessing.get_context("fork").Process(target=_call_and_keep, args=(call, value_fd))
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):  # closed, or a full disk: the parent's own affair
                stream.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # whoever asks for a fork knows of this process' threads
        pid = os.fork()
    if pid:
        return FunctionProcess(_Copy(pid), (value_fd,))
    status = 1
    try:
        _become_worker(env, stdout, stderr)
        status = process._bootstrap()  # type: ignore[attr-defined]  # noqa: SLF001 - what multiprocessing's children run
    except BaseException:  # noqa: BLE001 - nothing of the copied stack may run in this process
        traceback.print_exc()
    finally:
        os._exit(status)


# --- the worker's side -------------------------------------------------------------------------------------


def _become_worker(env: Mapping[str, str], stdout: int, stderr: int) -> None:
    """Turn a copy of the agent into a worker: session, signals, streams and environment of its own."""
    os.setsid()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for target, source in ((0, nowhere), (1, stdout), (2, stderr)):
        os.dup2(nowhere if source == subprocess.DEVNULL else source, target)
    os.environ.clear()
    os.environ.update(env)


def _work(name: str, packed: bytes, value_fd: int) -> None:
    """Unpack a call and make it; runs in a spawned worker."""
    os.set_inheritable(value_fd, False)

    def call() -> Any:
        function, args = reduction.ForkingPickler.loads(packed)
        return function(*args)

    _keep(name, record(call), value_fd)


def _call_and_keep(call: FunctionCall, value_fd: int) -> None:
    """Make a call; runs in a forked worker."""
    _keep(call.name, record(lambda: call.function(*call.args)), value_fd)


class _ByValue(reduction.ForkingPickler):
    """Packs whole values: what multiprocessing shares between living processes would end with this one."""

    _extra_reducers: dict[type, Callable[[Any], Any]] = {}  # noqa: RUF012 - replaces the base's attribute


def _keep(name: str, call: Callable[[], Any], value_fd: int) -> None:
    value = call()

    def pack() -> None:
        with open(value_fd, "wb") as file:
            try:
                _ByValue(file).dump(value)
            except Exception as error:
                what = f"what {name} returned, a {type(value).__name__}, cannot be sent to the agent"
                raise TypeError(f"{what}: {error}") from error

    record(pack)()
