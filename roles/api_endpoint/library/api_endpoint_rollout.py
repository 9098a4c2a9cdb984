#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring a release live: start it beside the old one, prove it, switch."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_rollout
short_description: Bring a release live, without failing a request
description:
  - Starts the release in the idle one of two slots, asks its health path over its own socket until it answers as expected,
    and only then turns C(live), one link, to that slot. nginx connects through the link, so nothing is reloaded. The old
    slot is drained and stopped.
  - When the release does not become healthy in time it is stopped, its last log lines are shown, and the module fails.
    The old release has not noticed.
  - A release that is live already is left alone; its unit is started, enabled or mended where that is needed.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  root:
    description: Absolute path of the endpoint's folder on the host.
    type: path
    required: true
  release:
    description: Id of the release, as returned by M(api_endpoint_release). Not needed in check mode on a clean host.
    type: str
    default: ""
  server_name:
    description: Name to send as Host header with the health request.
    type: str
    default: localhost
  health_path:
    description: Path that is asked.
    type: str
    default: /
  health_status:
    description: Statuses that mean healthy. When empty, any below 500.
    type: list
    elements: int
    default: []
  health_timeout:
    description: Seconds to wait for one answer.
    type: int
    default: 5
  start_timeout:
    description: Seconds within which a release must become healthy.
    type: int
    default: 60
  drain:
    description: Seconds between the switch and the stop of the old slot.
    type: int
    default: 1
  error_log:
    description: Absolute path of gunicorn's error log, to quote from.
    type: path
    required: true
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Bring the release live
  api_endpoint_rollout:
    name: api-endpoint
    root: /var/lib/api-endpoint
    release: "{{ built.release }}"
    health_path: /readyz
    health_status: [200]
    error_log: /var/log/gunicorn/error.log
"""

RETURN = r"""
slot:
  description: The slot that is live now.
  type: str
  returned: when a release is live
previous:
  description: Id of the release that was live before; empty when none was.
  type: str
  returned: always
seconds:
  description: Seconds from the start of the slot until it was healthy.
  type: float
  returned: when a slot was started
mended:
  description: What was put right on a release that was live already.
  type: list
  elements: str
  returned: when the release was live already
"""

import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint_http import ask, healthy
from ansible.module_utils.api_endpoint_service import SLOTS, Endpoint, systemctl
from ansible.module_utils.api_endpoint_store import StoreError, point, write_file
from ansible.module_utils.basic import AnsibleModule

POLL = 0.1  # seconds between two health requests


class Rollout:
    """One roll-out."""

    def __init__(self, module: AnsibleModule) -> None:
        self.check_mode: bool = module.check_mode
        self.given = module.params
        self.endpoint = Endpoint(self.given["name"], self.given["root"])
        self.release: str = self.given["release"]

    def run(self) -> dict[str, Any]:
        """Bring the release live, or leave things as they are."""
        live = self.endpoint.live_slot
        previous = self.endpoint.release_of(live)
        if self.release and previous == self.release:
            return {**self.mend(live), "previous": previous}
        diff = {"before": f"live: {previous or 'nothing'}\n", "after": f"live: {self.release or 'a new release'}\n"}
        if self.check_mode:
            return {"changed": True, "previous": previous, "diff": diff}
        if not (self.endpoint.root / "releases" / self.release).is_dir() or not self.release:
            raise StoreError(f"There is no release {self.release!r} on this host.")
        slot = SLOTS[1] if live == SLOTS[0] else SLOTS[0]
        seconds = self.start(slot)
        self.switch(slot, live)
        return {"changed": True, "previous": previous, "slot": slot, "seconds": seconds, "diff": diff}

    def mend(self, slot: str) -> dict[str, Any]:
        """Put right what is amiss with a release that is live already."""
        state = self.endpoint.properties(slot, "ActiveState", "UnitFileState")
        drop_in = self.endpoint.drop_in_of(slot)
        settings = self.settings()
        idle = SLOTS[1 - SLOTS.index(slot)]
        idle_state = self.endpoint.properties(idle, "ActiveState", "UnitFileState")
        amiss = {
            "settings of the unit": not drop_in.exists() or drop_in.read_text(encoding="utf-8") != settings,
            "links": self.links_differ(),
            "not enabled for the next boot": state.get("UnitFileState") != "enabled",
            "not running": state.get("ActiveState") != "active",
            "the other slot was left on": idle_state.get("ActiveState") != "inactive"
            or idle_state.get("UnitFileState") == "enabled",
        }
        mended = [what for what, is_so in amiss.items() if is_so]
        if mended and not self.check_mode:
            self.write_drop_in(slot, settings)
            self.write_links()
            systemctl("enable", self.endpoint.unit_of(slot))
            if amiss["not running"]:
                self.start_unit(slot)
            self.retire(idle)
        return {"changed": bool(mended), "slot": slot, "mended": mended}

    def settings(self) -> str:
        """Return what the release adds to the unit of its slot."""
        return (self.endpoint.root / "releases" / self.release / "service.conf").read_text(encoding="utf-8")

    def write_drop_in(self, slot: str, settings: str) -> None:
        """Give a slot's unit the settings of its release."""
        drop_in = self.endpoint.drop_in_of(slot)
        drop_in.parent.mkdir(exist_ok=True, mode=0o755)
        write_file(drop_in, settings, 0o644)
        systemctl("daemon-reload")

    def start(self, slot: str) -> float:
        """Start the release in an idle slot and wait until it is healthy; return the seconds that it took."""
        systemctl("stop", self.endpoint.unit_of(slot))
        folder = self.endpoint.root / "slots" / slot
        folder.mkdir(parents=True, exist_ok=True)
        point(folder / "gunicorn.sock", self.endpoint.socket_of(slot))
        point(folder / "release", f"../../releases/{self.release}")
        self.write_drop_in(slot, self.settings())
        try:
            return self.start_unit(slot)
        except StoreError:
            self.retire(slot)
            raise

    def start_unit(self, slot: str) -> float:
        """Start a slot's unit and wait until it is healthy; return the seconds that it took."""
        error_log = Path(self.given["error_log"])
        offset = error_log.stat().st_size if error_log.exists() else 0
        unit = self.endpoint.unit_of(slot)
        begun = time.monotonic()
        systemctl("reset-failed", unit)
        systemctl("start", "--no-block", unit)
        answer = None
        reason = ""
        while not reason:
            answer = ask(
                self.given["health_path"],
                self.given["server_name"],
                unix_socket=self.endpoint.socket_of(slot),
                timeout=self.given["health_timeout"],
            )
            if healthy(answer, self.given["health_status"]):
                return round(time.monotonic() - begun, 1)
            state = self.endpoint.properties(slot, "ActiveState", "NRestarts", "Result")
            if state.get("ActiveState") == "failed" or state.get("NRestarts", "0") != "0":
                reason = f"it stopped (result: {state.get('Result')})"
            elif time.monotonic() - begun > self.given["start_timeout"]:
                reason = f"it was not healthy within api_endpoint_start_timeout = {self.given['start_timeout']} s"
            time.sleep(POLL)
        expected = self.given["health_status"] or "any status below 500"
        live = self.endpoint.release_of(self.endpoint.live_slot)
        serving = f"Release {live} goes on serving." if live else "No release is live on this host yet."
        raise StoreError(
            f"Release {self.release} did not become healthy: {reason}. {serving}\n"
            f"GET {self.given['health_path']} over its socket: {answer}; expected: {expected}.\n"
            f"{self.endpoint.last_words(slot, str(error_log), offset)}"
        )

    def switch(self, slot: str, old: str) -> None:
        """Turn the requests to a slot, drain the old one and stop it."""
        systemctl("enable", self.endpoint.unit_of(slot))
        point(self.endpoint.root / "live", f"slots/{slot}")
        self.write_links()
        if old:
            time.sleep(self.given["drain"])
            self.retire(old)

    def retire(self, slot: str) -> None:
        """Stop a slot, and keep it from starting at the next boot."""
        systemctl("disable", "--now", self.endpoint.unit_of(slot))
        systemctl("reset-failed", self.endpoint.unit_of(slot))

    def links(self) -> dict[Path, str]:
        """Return the links that lead people to what is live; they follow `live` and so never change."""
        root = self.endpoint.root
        return {
            root / "current": "live/release",
            root / "p3env": "live/release/p3env",
            Path("/etc", self.endpoint.name, "gunicorn.conf.py"): f"{root}/current/gunicorn.conf.py",
        }

    def links_differ(self) -> bool:
        """Tell whether one of the links is missing or leads elsewhere."""
        return any(not link.is_symlink() or os.readlink(link) != target for link, target in self.links().items())

    def write_links(self) -> None:
        """Make the links."""
        for link, target in self.links().items():
            link.parent.mkdir(parents=True, exist_ok=True)
            point(link, target)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "release": {"type": "str", "default": ""},
            "server_name": {"type": "str", "default": "localhost"},
            "health_path": {"type": "str", "default": "/"},
            "health_status": {"type": "list", "elements": "int", "default": []},
            "health_timeout": {"type": "int", "default": 5},
            "start_timeout": {"type": "int", "default": 60},
            "drain": {"type": "int", "default": 1},
            "error_log": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        result = Rollout(module).run()
    except (StoreError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
