# SPDX-License-Identifier: GPL-3.0-or-later
"""One deployment at a time on a host.

Two files in /run, so that a reboot clears them: `<name>.lock` says who deploys, and `<name>.busy` is locked by the process
that is working for them at the moment. The second one names them too, because such a process goes on when its run was cut
off and has given its lock back. A run of Ansible is many processes with nothing in between, so that the first file outlives
each of them. It ends when the run ends it, when nothing has been done for LEASE_SECONDS, or when the
computer that made it says that the run is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.files import read_json, write_json
from ansible.module_utils.basic import AnsibleModule

FOLDER = "/run"
LEASE_SECONDS = 600.0  # seconds without a sign of life after which a run counts as gone
# Takes a lock that nobody has, with the host's own clock.
TAKE = """\
umask 077
since=$(date -u '+%Y-%m-%d %H:%M:%S UTC')
exec 9>>{busy} && flock --nonblock 9 && ! test -e {record} \\
  && printf '%s, "since": "%s", "touched": %s}}\\n' {text} "$since" "$(date +%s)" >{record}.new \\
  && mv {record}.new {record} && echo {token}"""
# Renews a lock that is still the run's.
RENEW = """\
umask 077
exec 9>>{busy} && flock --nonblock 9 && grep -qsF {entry} {record} \\
  && sed "s/\\"touched\\": [0-9.]*/\\"touched\\": $(date +%s)/" {record} >{record}.new \\
  && mv {record}.new {record} && echo {token}"""


def is_locked(path: Path) -> bool:
    """Tell whether a process, which may be this one, has locked a file."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


class ConflictError(DeployError):
    """Somebody else is deploying; `holder` says who."""

    def __init__(self, holder: dict[str, Any], busy: bool) -> None:
        self.holder = holder
        self.busy = busy
        silent = max(0, time.time() - holder.get("touched", 0))
        wait = (
            "A process of that run is at work on the host now."
            if busy
            else f"That run was last active {silent:.0f} s ago; if it has died, the lock expires "
            f"in {LEASE_SECONDS - silent:.0f} s."
        )
        super().__init__(
            f"Nothing was touched: {holder.get('who', 'somebody')} on {holder.get('computer', 'a computer')} has been "
            f"deploying to this host since {holder.get('since', 'a moment ago')}. {wait}"
        )


class Lock:
    """The lock of one endpoint."""

    def __init__(self, name: str, folder: str = FOLDER) -> None:
        self.record = Path(folder, f"{name}.lock")
        self.busy = Path(folder, f"{name}.busy")

    def holder(self) -> dict[str, Any]:
        """Return who holds the lock, or for whom a process still works; empty when nobody does."""
        is_busy = self.is_busy()
        return self._fresh(even_if_silent=is_busy) or (self._worker() if is_busy else {})

    def _worker(self) -> dict[str, Any]:
        """Return for whom the process is at work."""
        try:
            return read_json(self.busy) or {}
        except DeployError:
            return {}

    def _fresh(self, even_if_silent: bool = False) -> dict[str, Any]:
        """Return who took the lock, unless nothing was heard of them for too long."""
        try:
            found = read_json(self.record) or {}
        except DeployError:
            return {}
        is_fresh = 0 <= time.time() - found.get("touched", 0) < LEASE_SECONDS
        return found if is_fresh or even_if_silent else {}

    def is_busy(self) -> bool:
        """Tell whether a process is at work."""
        return is_locked(self.busy)

    def signature(self) -> str:
        """Return who deploys, as user@computer."""
        holder = self.holder()
        return f"{holder.get('who', 'unknown')}@{holder.get('computer', 'unknown')}"

    @contextmanager
    def _working(self, wait: float) -> Iterator[int]:
        """Be the one process that works; `wait` seconds for another one to end. Yield the descriptor of the locked file."""
        handle = os.open(self.busy, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + wait
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise ConflictError(self.holder(), busy=True) from None
                    time.sleep(0.2)
            yield handle
        finally:
            os.close(handle)

    def _write(self, record: dict[str, Any]) -> None:
        write_json(self.record, {**record, "touched": time.time()}, 0o600)

    def take(self, record: dict[str, Any], instead_of: str = "", wait: float = 0) -> None:
        """Take the lock for a run, or raise ConflictError; `instead_of` is the token of a run that is known to be gone."""
        with self._working(wait):
            holder = self._fresh()
            if holder and holder["token"] not in (record["token"], instead_of):
                raise ConflictError(holder, busy=False)
            self._write(record)

    def taking(self, record: dict[str, Any]) -> str:
        """Return the shell command that takes a free lock, and prints the run's token; it needs no Python on the host.

        Whatever stands in the way is for the module to judge.
        """
        return TAKE.format(
            busy=shlex.quote(str(self.busy)),
            record=shlex.quote(str(self.record)),
            text=shlex.quote(json.dumps(record)[:-1]),
            token=shlex.quote(record["token"]),
        )

    def renewing(self, token: str) -> str:
        """Return the shell command that renews the lock if it is still this run's, and prints the token then."""
        return RENEW.format(
            busy=shlex.quote(str(self.busy)),
            record=shlex.quote(str(self.record)),
            entry=_entry(token),
            token=shlex.quote(token),
        )

    def renew(self, token: str) -> None:
        """Renew the lock for the run that has it, or raise an error that says who has it now."""
        with self._working(wait=30):
            self._write(self._own(token))

    def _own(self, token: str) -> dict[str, Any]:
        """Return the record of the run that has the lock; raise an error when that is another one."""
        record = read_json(self.record) or {}
        if record.get("token") == token:
            return record
        # Not holder(): the process that is at work is this one.
        other = self._fresh(even_if_silent=True)
        raise DeployError(
            f"This run no longer has the lock of this host: {other.get('who', 'somebody')} on "
            f"{other.get('computer', 'a computer')} took it at {other.get('since')}. Run again when they are done."
            if other
            else "This run no longer has the lock of this host: another deployment came and went while this one did nothing "
            f"here for {LEASE_SECONDS / 60:.0f} minutes, or the host was restarted. Run again."
        )

    def giving_back(self, token: str) -> str:
        """Return the shell command that ends the lock if it is still this run's; it needs no Python on the host."""
        record = shlex.quote(str(self.record))
        return f"if grep -qsF {_entry(token)} {record}; then rm -f {record}; fi"

    @contextmanager
    def held(self, token: str, is_dry_run: bool = False) -> Iterator[None]:
        """Work on the host for a run that has the lock; a dry run needs none."""
        if is_dry_run:
            yield
            return
        if not token:
            raise DeployError(
                "This run has not taken the lock of this host. Run it from its first task."
            )
        with self._working(wait=30) as busy:
            record = self._own(token)
            self._write(record)
            # Not by a rename, which would make it another file than the locked one.
            os.ftruncate(busy, 0)
            os.pwrite(busy, json.dumps(record).encode(), 0)
            try:
                yield
            finally:
                self._write(record)


def _entry(token: str) -> str:
    """Return what stands in the record of a run, quoted for a shell."""
    return shlex.quote(json.dumps({"token": token})[1:-1])


def run_module(module: AnsibleModule) -> None:
    """Take the lock, or renew it, and exit with its token."""
    given = module.params
    lock = Lock(given["name"])
    record = {name: given[name] for name in ("token", "who", "computer", "machine", "pid")}
    record["since"] = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    try:
        if given["run"]:
            lock.renew(given["run"])
        else:
            lock.take(record, given["instead_of"], given["wait"])
    except ConflictError as conflict:
        module.fail_json(msg=str(conflict), holder=conflict.holder, busy=conflict.busy)
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error))
    # The lock is no part of the host's state: a second run of the role changes nothing.
    module.exit_json(changed=False, token=given["run"] or given["token"])
