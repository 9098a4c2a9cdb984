# SPDX-License-Identifier: GPL-3.0-or-later
"""Install Debian packages: wait for another apt, say who that is, and say of an error what to do about it.

The new instance's own updates, or a colleague, may have apt's locks for minutes.
"""

from __future__ import annotations

import re
import shlex
import time
from typing import Any

from ansible.module_utils.api_endpoint.controller.look import look
from ansible.module_utils.api_endpoint.controller.processes import SHOW, processes
from ansible.module_utils.api_endpoint.urls import hide
from ansible.plugins.action import ActionBase

PLAIN = re.compile(
    r"[a-z0-9][a-z0-9+.-]+"
)  # a name without a version, an architecture or a wildcard
POLICY = "/usr/sbin/policy-rc.d"
LISTS = "/var/lib/apt/lists"
LEFT = "packages may not start services"  # a line of the answer that is no package's
LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
)
INTERRUPTED = "dpkg was interrupted"
WAIT_SECONDS = 900
LOOK_SECONDS = 5
SAY_SECONDS = 30
LOCKED = re.compile(
    r"[Cc]ould not get lock|Unable to lock|Failed to lock|Unable to acquire the dpkg", re.MULTILINE
)

# The looks at who has apt's locks, and at what dpkg left half done.
LOOK = (
    f"{SHOW}for lock in {' '.join(LOCKS)}; do inode=$(stat --format %i $lock 2>/dev/null) || continue; "
    r"""sed -n "s/^[0-9]*: POSIX .* \([0-9]*\) [0-9a-f]*:[0-9a-f]*:$inode [0-9]* .*/\1/p" /proc/locks | """
    "while read -r pid; do show $lock $pid; done; done; "
    f"! ls /var/lib/dpkg/updates 2>/dev/null | grep -qx '[0-9]*' || echo {shlex.quote(INTERRUPTED)}"
)

# Installs in one go, where nothing is in the way; apt's module first installs its Python binding, and then reads all lists.
# Lists of today mostly know all packages. Translated descriptions are left to the host's next update.
# Whatever fails here is for the module, which says why.
AT_ONCE = """\
test ! -e {policy} || exit 1
export DEBIAN_FRONTEND=noninteractive
trap 'rm -f {policy}' EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\\nexit {status}\\n' >{policy} && chmod 0755 {policy} || exit 1
install() {{
  apt-get --quiet --yes --no-install-recommends --option Dpkg::Options::=--force-confdef \\
    --option Dpkg::Options::=--force-confold install {names}
}}
ls {lists}/*_Packages* >/dev/null 2>&1 && find {lists} -maxdepth 0 -mmin -{minutes} | grep -q . \\
  && install && exit 0
apt-get --quiet --option Acquire::Languages=none --option APT::Get::List-Cleanup=false update && install"""

# What apt says of a cause, and what to do about that.
CAUSES = (
    (
        r"dpkg was interrupted",
        "dpkg was interrupted on this host, and has left packages half installed. Run `sudo dpkg --configure -a` there.",
    ),
    (
        r"not valid yet",
        "This host's clock is behind ({date}), so its packages seem to come from the future. Set it: "
        "`sudo timedatectl set-ntp true`.",
    ),
    (
        r"Release file .*is expired|Valid-Until|EXPKEYSIG|certificate .*(?:expired|not yet)",
        "The index of a package source has expired for this host. Its clock may be ahead ({date}): "
        "`sudo timedatectl set-ntp true`; "
        "or Debian no longer keeps this source: correct /etc/apt/sources.list and the files in "
        "/etc/apt/sources.list.d.",
    ),
    (
        r"[Tt]emporary failure resolving|[Cc]ould not resolve|Something wicked happened resolving",
        "This host cannot look up the names of its package sources. Check its DNS (/etc/resolv.conf), or the proxy in "
        "/etc/apt/apt.conf.d.",
    ),
    (
        r"[Cc]ould not connect|[Uu]nable to connect|[Cc]onnection (?:timed out|refused|failed)|[Nn]etwork is unreachable"
        r"|Cannot initiate the connection|Proxy Authentication|503 +Service",
        "This host does not reach its package sources. Check its network, the proxy in /etc/apt/apt.conf.d, and "
        "/etc/apt/sources.list with the files in /etc/apt/sources.list.d.",
    ),
    (
        r"404 +Not Found|does not (?:any longer )?have a Release file",
        "A package source of this host does not exist. Correct /etc/apt/sources.list and the files in "
        "/etc/apt/sources.list.d.",
    ),
    (
        r"NO_PUBKEY|is not signed|[Ss]ignatures? (?:couldn't|could not|verification)",
        "The signature of a package source cannot be verified on this host. Install its key, or remove the source from "
        "/etc/apt/sources.list.d.",
    ),
    (
        r"unmet dependencies|held broken packages|--fix-broken|pkgProblemResolver",
        "Packages of this host do not fit together. Run `sudo apt-get --fix-broken install` there, and see what is held: "
        "`apt-mark showhold`.",
    ),
)  # fmt: skip


def words_of(result: dict[str, Any]) -> str:
    """Return all that apt said."""
    return "\n".join(str(result.get(name) or "") for name in ("msg", "stderr", "stdout"))


def explained(result: dict[str, Any], date: str = "") -> dict[str, Any]:
    """Return a failed result with what to do about it before apt's own words, where the cause is known."""
    words = words_of(result)
    for pattern, sentence in CAUSES:
        if re.search(pattern, words):
            said = (
                "" if result.get("msg") == INTERRUPTED else f" apt says:\n{result.get('msg', '')}"
            )
            return {
                **result,
                "msg": f"{sentence.format(date=date or 'see `date`')} Then run this again.{said}",
            }
    return result


def in_one_go(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the module that runs AT_ONCE; not by the connection's terminal, whose end would end apt."""
    script = AT_ONCE.format(
        policy=POLICY,
        lists=LISTS,
        status=int(arguments["policy_rc_d"]),
        names=shlex.join(arguments["name"]),
        minutes=int(arguments.get("cache_valid_time", 0)) // 60,
    )
    return {"_raw_params": script, "_uses_shell": True}


class PackagesAction(ActionBase):
    """Look; install what is missing."""

    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        self._host = (task_vars or {}).get("inventory_hostname", "")
        arguments = dict(self._task.args)
        patience = float(arguments.pop("lock_timeout", WAIT_SECONDS))
        names = arguments["name"] = sorted({str(name) for name in arguments["name"]})
        plain = [name for name in names if PLAIN.fullmatch(name)]
        answer = look(
            self,
            # That file is what a run leaves that was killed while it installed packages.
            f"if grep -qsx 'exit 101' {POLICY}; then echo {shlex.quote(LEFT)}; fi; "
            f"dpkg-query --show --showformat '${{db:Status-Status}} ${{Package}}\\n' {shlex.join(plain)} 2>/dev/null",
        )
        lines = answer.splitlines()
        changed = False
        if LEFT in lines:
            changed = True
            removed = self._run(
                "ansible.legacy.file", {"path": POLICY, "state": "absent"}, task_vars
            )
            if removed.get("failed"):
                return removed
        if all(f"installed {name}" in lines for name in names):
            return {"changed": changed}
        installed = self._install(arguments, patience, task_vars)
        # Also of one that fails: on a host without apt's Python binding a dry run goes on.
        missing = [name for name in names if f"installed {name}" not in lines]
        changed = changed or (not installed.get("failed") and installed.get("changed", False))
        return {**installed, "changed": changed, "missing": missing}

    def _install(
        self, arguments: dict[str, Any], patience: float, task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Have apt install them as soon as no other one is at work, which may come back in between."""
        deadline = time.monotonic() + patience
        # With a version or a wildcard, or where services may start, it is for the module alone.
        is_plain = "policy_rc_d" in arguments and all(map(PLAIN.fullmatch, arguments["name"]))
        at_once = is_plain and not self._task.check_mode
        while True:
            if not self._task.check_mode and (failed := self._wait(deadline, patience)):
                return failed
            if at_once:
                at_once = False
                done = self._run("ansible.legacy.command", in_one_go(arguments), task_vars)
                if not done.get("failed"):
                    return {"changed": True}
            result = self._run("ansible.legacy.apt", arguments, task_vars)
            if not result.get("failed"):
                return result
            if (
                not LOCKED.search(words_of(result))
                or self._task.check_mode
                or time.monotonic() >= deadline
            ):
                # Where not even apt's Python binding could be installed, the module does not say why.
                asked = "date; LC_ALL=C apt-get update 2>&1 | grep '^[EW]:' | head -n 10"
                date, _, words = look(self, asked).partition("\n")
                told = str(result.get("msg", ""))
                lines = [told, *(line for line in words.splitlines() if line not in told)]
                return explained({**result, "msg": hide("\n".join(lines))}, date.strip())

    def _wait(self, deadline: float, patience: float) -> dict[str, Any]:
        """Wait until nobody has apt's locks, and say for whom; return a failure when they keep them, or dpkg was cut off."""
        said = 0.0
        while True:
            answer = look(self, LOOK)
            others = processes(answer, "/var/")
            if not others:
                # A dpkg that is at work has the same mark.
                return (
                    explained({"failed": True, "msg": INTERRUPTED})
                    if INTERRUPTED in answer.splitlines()
                    else {}
                )
            named = ", ".join(map(str, others))
            if time.monotonic() >= deadline:
                told = f"Packages were not installed: for {patience:.0f} s {named} had apt's lock {others[0].has}. "
                return {
                    "failed": True,
                    "msg": told + "Run this again when that is done, or end it when it hangs.",
                }
            if not said or time.monotonic() - said >= SAY_SECONDS:
                said = time.monotonic()
                self._display.display(
                    f"  {time.strftime('%H:%M:%S')} {self._host}: waiting for apt, which {named} is using"
                )
            time.sleep(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic())))

    def _run(
        self, module: str, arguments: dict[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Run a module on the host."""
        return self._execute_module(module_name=module, module_args=arguments, task_vars=task_vars)
