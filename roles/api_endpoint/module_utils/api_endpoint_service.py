# SPDX-License-Identifier: GPL-3.0-or-later
"""The two slots of an endpoint: where they are, which one is live, and what systemd and the logs say of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SLOTS = ("blue", "green")
EXCERPT = 6000  # characters of a log that a message shows at most


def systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemctl and return what it said; a failure is the caller's to judge."""
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)


class Endpoint:
    """An endpoint on this host.

    Everything that says which version is live hangs on one link, `live`, so that one rename turns nginx's socket, the
    live release and the live virtualenv at once:

        live -> slots/blue                    current -> live/release
        slots/blue/release -> releases/<id>   p3env   -> live/release/p3env
        slots/blue/gunicorn.sock -> /run/<name>/blue/gunicorn.sock
    """

    def __init__(self, name: str, root: str | Path) -> None:
        self.name = name
        self.root = Path(root)

    @property
    def live_slot(self) -> str:
        """The slot that gets the requests; empty before the first release."""
        link = self.root / "live"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    def release_of(self, slot: str) -> str:
        """Return the id of the release in a slot; empty when it holds none."""
        link = self.root / "slots" / slot / "release"
        return os.path.basename(os.readlink(link)) if slot and link.is_symlink() else ""

    def socket_of(self, slot: str) -> str:
        """Return the path of a slot's socket."""
        return f"/run/{self.name}/{slot}/gunicorn.sock"

    def unit_of(self, slot: str) -> str:
        """Return the name of a slot's systemd unit."""
        return f"{self.name}@{slot}.service"

    def drop_in_of(self, slot: str) -> Path:
        """Return the file with which the release in a slot completes the slot's unit."""
        return Path("/etc/systemd/system", f"{self.unit_of(slot)}.d", "release.conf")

    def properties(self, slot: str, *names: str) -> dict[str, str]:
        """Return properties of a slot's unit."""
        shown = systemctl("show", self.unit_of(slot), f"--property={','.join(names)}").stdout
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def last_words(self, slot: str, error_log: str, offset: int = 0, lines: int = 40) -> str:
        """Return the last lines that a slot wrote to the journal and, from `offset` on, to gunicorn's error log."""
        journal = subprocess.run(
            ["journalctl", "--unit", self.unit_of(slot), f"--lines={lines}", "--output=cat", "--no-pager"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        written = ""
        try:
            with open(error_log, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(offset if offset <= file.tell() else 0, file.tell() - EXCERPT))
                written = file.read().decode(errors="replace")
        except OSError as error:
            written = f"(not readable: {error})"
        written = "\n".join(written.splitlines()[-lines:])
        return (
            f"--- {error_log}\n{written or '(nothing)'}\n"
            f"--- journal of {self.unit_of(slot)}\n{journal[-EXCERPT:].strip() or '(nothing)'}"
        )
