# SPDX-License-Identifier: GPL-3.0-or-later
"""Take an endpoint out of nginx, tested before; with the last one, give nginx back what it had before the role."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.files import read_json, write_json
from ansible.module_utils.api_endpoint.host.nginx import (
    ACCOUNT,
    FOREIGN,
    apply,
    current,
    judge,
    left_by_a_port,
    reload,
)
from ansible.module_utils.api_endpoint.host.nginx_note import NOTE, PUT_AWAY, stand_in
from ansible.module_utils.api_endpoint.http import loaded_configuration
from ansible.module_utils.api_endpoint.systemd import systemctl

CONF = "nginx.conf"
DEFAULT = "sites-enabled/default"


class NginxRemoval:
    """What becomes of nginx's folder when an endpoint goes."""

    def __init__(self, folder: Path, names: list[str], is_last: bool, has_balancers: bool) -> None:
        """`names` are the endpoint's files and links in `folder`; it `is_last` when no other endpoint is on the host."""
        self.folder = folder
        self.noted: dict[str, str] = read_json(folder / NOTE) or {}
        site = {name: None for name in names if current(folder / name) is not None}
        gone: dict[str, str | None] = dict(site)
        gone |= dict.fromkeys(left_by_a_port(folder, gone) if site or is_last else [])
        back, self.links = self._given_back(has_balancers) if is_last else ({}, {})
        self.kept: list[str] = []
        self.is_given_back = is_last and not self._is_the_roles()
        if back:
            try:
                self._judge(gone | back)
                gone, self.is_given_back = gone | back, True
            except DeployError as error:
                self.kept.append(
                    f"{folder / CONF} and the redaction of the error log: nginx would reject its configuration "
                    f"of before, probably because of another site. {error}"
                )
                self.links = {}
        elif is_last and not self.is_given_back:
            self.kept.append(
                f"{folder / CONF} and the redaction of the error log: there is no "
                f"{folder / CONF}{FOREIGN} to put back"
            )
        self.wanted = gone

    def _is_the_roles(self) -> bool:
        """Tell whether nginx.conf is the role's."""
        first = (current(self.folder / CONF) or "").partition("\n")[0]
        return "role api_endpoint" in first

    def _given_back(self, has_balancers: bool) -> tuple[dict[str, str | None], dict[str, str]]:
        """Return what nginx had before the role; files, and links with their targets.

        Behind a balancer the default site stays away: its page would pass for a healthy endpoint.
        """
        kept = current(self.folder / (CONF + FOREIGN))
        if kept is None or not self._is_the_roles():
            return {}, {}
        target = self.noted.get(PUT_AWAY + DEFAULT, "")
        default = self.folder / DEFAULT
        if has_balancers or not target or default.is_symlink() or default.exists():
            return {CONF: kept, CONF + FOREIGN: None}, {}
        return {CONF: kept, CONF + FOREIGN: None, DEFAULT: stand_in(target)}, {DEFAULT: target}

    def _judge(self, wanted: dict[str, str | None]) -> None:
        if wanted and shutil.which("nginx"):
            judge(self.folder, wanted, self.links)

    @property
    def account(self) -> str:
        """The account of nginx's workers, once nginx has back what it had."""
        found = ACCOUNT.search(current(self.folder / CONF) or "")
        return found[0].split()[-1].rstrip(";") if found else "www-data"

    def apply(self, socket: Path) -> None:
        """Write and remove, and have nginx load it; `socket` is the one by which it says what it has loaded."""
        self._judge(self.wanted)
        apply(self.folder, self.wanted, self.links)
        noted = {
            name: digest
            for name, digest in self.noted.items()
            if name.removeprefix(PUT_AWAY) not in self.wanted
        }
        if self.is_given_back:
            (self.folder / NOTE).unlink(missing_ok=True)
        elif noted != self.noted:
            write_json(self.folder / NOTE, noted, 0o644)
        self._reload(socket)

    def _reload(self, socket: Path) -> None:
        """Reload nginx; the endpoint's socket is closed once it has loaded what no longer has it."""
        if systemctl("is-active", "--quiet", "nginx.service").returncode != 0:
            return
        if not self.wanted and not loaded_configuration(str(socket)):
            return
        reload(
            lambda: not loaded_configuration(str(socket)),
            "nginx did not load its configuration without the endpoint; it goes on with the one before. Nothing else "
            "was removed.",
        )
