# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's part of gunicorn: what a fork would share between workers, or take from them, is found before it.

gunicorn loads the app once and forks its workers from that process, so that they share the model's
memory. Threads do not survive a fork, and a connection is one for all workers afterwards: callers
get each other's answers. This module looks at the process after the app is loaded. Each release
has a copy of this file beside its gunicorn.conf.py. Decision 31 (docs/adr) says why.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import logging
import os
import random
import re
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gunicorn.app.wsgiapp import WSGIApplication

REPLACED = "API_ENDPOINT_LOADS_IN_WORKERS"  # the variable by which a process tells the one that replaces it
SHOWN = 5  # things that a line names
OPENMP = re.compile(r"/lib(?:gomp|omp|iomp5)[^/]*\.so[^/]*$")
PAUSE_HARD = 2  # of OpenMP's omp_pause_resource_t
DATABASE_FILE = re.compile(
    r"(?:-wal|-shm|-journal|/lock\.mdb)$"
)  # SQLite's and LMDB's, beside the database
REMOVERS = (shutil.rmtree, os.unlink, os.remove, os.rmdir, os.removedirs)
HARMLESS_DEVICES = {
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "console")
}


@dataclass
class Preload:
    """What is known of the process before the app is loaded, and of the app afterwards."""

    may_replace: bool = True  # api_endpoint_preload: auto
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "."
    descriptors: set[tuple[int, str]] = field(default_factory=set)
    private_bytes: int = 0
    is_replaced: bool = False  # this process has replaced one that had loaded the app
    readers: list[int] = field(default_factory=list)  # descriptors of files that the app reads
    generators: list[Any] = field(default_factory=list)  # of random numbers
    at_exit: list[str] = field(
        default_factory=list
    )  # what the app has registered for the end of its process


preload = Preload()


def watch(may_replace: bool) -> bool:
    """Note what the process is before the app is loaded; return whether gunicorn is to load it before the fork."""
    preload.is_replaced |= os.environ.pop(REPLACED, "") != ""
    preload.may_replace = may_replace
    preload.environment, preload.folder = dict(os.environ), os.getcwd()
    preload.descriptors = open_descriptors()
    preload.private_bytes = private_bytes()
    if not preload.is_replaced:
        atexit.register = note_exit_handlers(atexit.register)
        WSGIApplication.load = with_traceback(WSGIApplication.load)
    return not preload.is_replaced


def with_traceback(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `load`, which prints the traceback of a RuntimeError: gunicorn prints its message alone."""

    def load_and_tell(application: Any) -> Any:
        try:
            return load(application)
        except RuntimeError:
            traceback.print_exc()
            raise

    return load_and_tell


def check_process(server: Any) -> None:
    """Look at the loaded app, before gunicorn has a socket.

    What does not survive a fork is loaded in each worker instead, or refused.
    """
    if not server.cfg.preload_app:
        return
    if its := getattr(server.log, "sock", None):
        preload.descriptors.add(
            (its.fileno(), os.readlink(f"/proc/self/fd/{its.fileno()}"))
        )  # gunicorn's own, to statsd
    mapped = mapped_files()
    end_idle_threads(mapped)
    found = list(dict.fromkeys([*threads(), *children(), *timers(), *ends(), *descriptors(mapped)]))
    if not found:
        preload.generators = find_generators()
        return
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    line = f"{'; '.join(found[:SHOWN])}{more}. {cost(server.cfg.workers)}"
    if preload.may_replace:
        server.log.warning("Loaded in each worker, since a fork would share or lose: %s", line)
        replace_process()
    server.log.critical(
        "Refused to fork with api_endpoint_preload: true, since a fork would share or lose: %s "
        "Set api_endpoint_preload: auto, or make it at the first request.",
        line,
    )
    logging.shutdown()
    os._exit(1)  # a thread of the app could keep Python from ending


def cost(workers: int) -> str:
    """Say what it costs in memory to load the app in each worker: what loading it has added to this process."""
    more = (workers - 1) * max(0, private_bytes() - preload.private_bytes) / 1e6
    return f"Loading the app in each of the {workers} workers takes about {more:,.0f} MB of memory more."


def replace_process() -> None:
    """Run gunicorn anew in this process, without preload. Threads, memory and connections of the app end here."""
    for pid, _name in running_children():
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    for number, _path in open_descriptors() - preload.descriptors:
        with contextlib.suppress(OSError):
            os.set_inheritable(number, False)
    signal.setitimer(signal.ITIMER_REAL, 0)  # it would outlive the change of the program
    logging.shutdown()
    os.chdir(preload.folder)
    os.execve(sys.executable, sys.orig_argv, {**preload.environment, REPLACED: "yes"})  # noqa: S606 (its own command)


def renew_worker(server: Any, _worker: Any) -> None:
    """Give a new worker what it may not share with the others: places in files, random numbers."""
    if not server.cfg.preload_app:
        return
    for number in preload.readers:
        reopen(number)
    for generator in preload.generators:
        try:
            seed_anew(generator)
        except Exception as error:
            server.log.warning("Cannot seed %s anew: %s", type(generator).__name__, error)
    if torch := sys.modules.get("torch"):
        torch.seed()


# --- threads and processes


def threads() -> Iterator[str]:
    """Name the threads beside the main one. Those of libraries that end theirs before a fork do not count."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            yield f"the thread {thread.name!r}"
    if native_threads():
        pid = os.fork()  # OpenBLAS ends its threads for it
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    if left := native_threads():
        yield f"{len(left)} threads of native code ({', '.join(sorted(set(left)))})"


def native_threads() -> list[str]:
    """Return the names that the kernel knows of threads which Python does not."""
    known = {thread.native_id for thread in threading.enumerate()} | {os.getpid()}
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            if int(task.name) not in known:
                found.append((task / "comm").read_text(errors="replace").strip())
    return found


def end_idle_threads(mapped: set[str]) -> None:
    """Have OpenMP's runtimes and tqdm end their idle threads: they make them anew, in each worker."""
    if (tqdm := sys.modules.get("tqdm.std")) and tqdm.tqdm.monitor:
        tqdm.tqdm.monitor.exit()
        tqdm.tqdm.monitor = None
    for path in mapped:
        if OPENMP.search(path):
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(path).omp_pause_resource_all(PAUSE_HARD)


def running_children() -> list[tuple[int, str]]:
    """Return the processes that the app has started and that run: process id and name."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            for pid in (task / "children").read_text().split():
                name, _, rest = (
                    Path(f"/proc/{pid}/stat")
                    .read_text(errors="replace")
                    .partition("(")[2]
                    .rpartition(")")
                )
                if rest.split()[0] != "Z":
                    found.append((int(pid), name))
    return found


def children() -> Iterator[str]:
    """Name them."""
    for _pid, name in running_children():
        yield f"the process {name!r} that the app has started"


def timers() -> Iterator[str]:
    """Name a timer, which rings in this process and not in the workers."""
    if any(
        signal.getitimer(which)[0]
        for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
    ):
        yield "a timer (signal.alarm or signal.setitimer)"


# --- what happens at the end of a process


def note_exit_handlers(register: Callable[..., Any]) -> Callable[..., Any]:
    """Return atexit.register, which notes what each worker would do at its end to what the others still need.

    That is what the app itself registers, and what removes files, whoever registers it. Other libraries' know forks.
    """

    def register_and_note(function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        caller = sys._getframe(1)
        name = getattr(function, "__qualname__", type(function).__qualname__)
        if function in REMOVERS or caller.f_code.co_filename.startswith(f"{preload.folder}/"):
            preload.at_exit.append(f"{name} at {caller.f_code.co_filename}:{caller.f_lineno}")
        return register(function, *arguments, **named)

    return register_and_note


def ends() -> Iterator[str]:
    """Name what each worker would do at its end, while the others go on: exit handlers, folders that are removed."""
    for handler in preload.at_exit:
        yield f"an exit handler ({handler}), which each worker would run at its end"
    for kept in list(weakref.finalize._registry.values()):  # type: ignore[attr-defined]
        if getattr(kept.func, "__func__", None) is tempfile.TemporaryDirectory._cleanup.__func__:  # type: ignore[attr-defined]
            yield f"the temporary folder {kept.args[0]}, which each worker would remove at its end"


# --- what is open


def open_descriptors() -> set[tuple[int, str]]:
    """Return the descriptors that are open, each with what it is: the app may get the number of one that was closed."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them is closed by now
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return found


def descriptors(mapped: set[str]) -> Iterator[str]:
    """Name what the app has opened and workers may not share; note the files that each can open anew."""
    for number, path in sorted(open_descriptors() - preload.descriptors):
        with contextlib.suppress(OSError):  # it is closed by now
            kind = os.fstat(number).st_mode
            if stat.S_ISSOCK(kind):
                yield from describe_socket(number)
            elif stat.S_ISREG(kind):
                yield from describe_file(number, path, mapped)
            elif stat.S_ISFIFO(kind):
                yield "a pipe" if path.startswith("pipe:") else f"the pipe {path}"
            elif path.startswith("anon_inode:"):
                what = path.removeprefix("anon_inode:").strip("[]")
                yield "an event loop (epoll)" if what == "eventpoll" else f"an {what} descriptor"
            elif (
                not stat.S_ISDIR(kind)
                and path not in HARMLESS_DEVICES
                and not path.startswith("/dev/pts/")
            ):
                yield f"the device {path}"


def describe_socket(number: int) -> Iterator[str]:
    """Name a socket, unless nothing can come back on it."""
    with socket.socket(fileno=os.dup(number)) as its:
        is_datagram = its.type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) == socket.SOCK_DGRAM
        try:
            peer = its.getpeername()
        except OSError:
            peer = None
        if peer is None:
            own = its.getsockname()
            if is_datagram and not (own[1] if isinstance(own, tuple) else own):
                return  # it has no address yet, so nothing can come back on it
            listens = its.family != socket.AF_NETLINK and its.getsockopt(
                socket.SOL_SOCKET, socket.SO_ACCEPTCONN
            )
            yield f"a socket that {'listens' if listens else 'is not connected'}" + address(
                own, " at "
            )
        elif its.family == socket.AF_UNIX and is_datagram and not its.getsockname():
            return  # such as to a system log: nobody can answer
        else:
            yield "a connection" + (address(peer, " to ") or " within the app (a pair of sockets)")


def address(of: Any, before: str) -> str:
    """Return an address as text; nothing when it has none."""
    if isinstance(of, tuple) and len(of) > 1:
        host = f"[{of[0]}]" if ":" in str(of[0]) else of[0]
        return f"{before}{host}:{of[1]}"
    text = (
        of.decode(errors="replace").replace("\0", "@") if isinstance(of, bytes) else str(of or "")
    )
    return before + text if text else ""


def describe_file(number: int, path: str, mapped: set[str]) -> Iterator[str]:
    """Name a file that workers may not share: a database, or one that is read and written at a place that it remembers.

    A log is written at its end, whoever writes, and what is mapped into memory is not read through its descriptor.
    """
    flags = fcntl.fcntl(number, fcntl.F_GETFL)
    access = flags & os.O_ACCMODE
    head = b""
    if access != os.O_WRONLY:
        with contextlib.suppress(OSError):
            # Neither does this move the place, nor does it close the file, which would end SQLite's locks.
            head = os.pread(number, 16, 0)
    if head.startswith(b"SQLite format 3\0") or head[8:12] == b"DUCK" or DATABASE_FILE.search(path):
        yield f"the database {path}"
    elif flags & os.O_APPEND or access == os.O_WRONLY or path in mapped:
        return
    elif access == os.O_RDONLY and can_be_reopened(number):
        preload.readers.append(number)
    else:
        yield f"the file {path}, open for {'reading' if access == os.O_RDONLY else 'reading and writing'}"


def can_be_reopened(number: int) -> bool:
    """Tell whether a descriptor's file can be opened once more."""
    try:
        os.close(os.open(f"/proc/self/fd/{number}", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def reopen(number: int) -> None:
    """Give this process a place of its own in a file that it reads: the one where it is."""
    new = os.open(f"/proc/self/fd/{number}", os.O_RDONLY | os.O_CLOEXEC)
    os.lseek(new, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
    os.dup2(new, number, inheritable=os.get_inheritable(number))
    os.close(new)


def mapped_files() -> set[str]:
    """Return the paths of files that are mapped into memory."""
    lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if line.count(" /")}


def private_bytes() -> int:
    """Return the bytes of memory that are this process's own."""
    _size, resident, shared, *_rest = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


# --- random numbers


def find_generators() -> list[Any]:
    """Return the generators of random numbers that the app has, those of `random` and NumPy themselves included."""
    wanted: tuple[type, ...] = (random.Random,)
    if numpy := sys.modules.get("numpy.random"):
        wanted += (numpy.Generator, numpy.RandomState)
    objects = gc.get_objects()
    # Not isinstance(), which asks the object: a proxy has no answer outside of a request.
    kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, wanted)}
    return [one for one in objects if type(one) in kinds]


def seed_anew(generator: Any) -> None:
    """Seed a generator from the operating system, as Python does with the one of `random` after each fork."""
    if isinstance(generator, random.Random):
        generator.seed()
        return
    bits = getattr(generator, "bit_generator", None) or generator._bit_generator
    bits.state = type(bits)().state
