# SPDX-License-Identifier: GPL-3.0-or-later
"""What several hosts are together: whether they have one release, which one they can go back to, and how each ended."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.api_endpoint.controller.commands import RELEASE, USUAL
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.table import aligned, printable

Found = dict[str, dict[str, Any]]  # by host
BACK = f"{USUAL}playbooks/rollback.yml"
LONGEST = 160  # characters of a reason


def by_release(releases: dict[str, str]) -> str:
    """Return which hosts have which release, a line for each, without those that have none."""
    hosts: dict[str, list[str]] = {}
    for host, release in releases.items():
        if release:
            hosts.setdefault(release, []).append(host)
    return "\n".join(f"  {release}: {', '.join(hosts[release])}" for release in sorted(hosts))


def differing(parts: list[dict[str, Any]]) -> list[str]:
    """Return the names of the components, and of the artifacts, that are not the same on all hosts."""
    flat = [
        {name: value for name, value in part.items() if name != "artifacts"}
        | {f"data {artifact['dest']}": artifact for artifact in part.get("artifacts") or []}
        for part in parts
    ]
    names = sorted({name for part in flat for name in part})
    return [name for name in names if any(part.get(name) != flat[0].get(name) for part in flat)]


def one_release(built: Found) -> str:
    """Return the id of the release that all hosts have built; raise an error when there are several."""
    releases = {
        host: str(result["release"]) for host, result in built.items() if result.get("release")
    }
    if len(set(releases.values())) <= 1:
        return next(iter(releases.values()), "")
    names = differing([built[host].get("components") or {} for host in releases])
    virtualenv = (
        " Their Pythons differ: hosts behind a balancer need the same Debian version."
        if "virtualenv" in names
        else ""
    )
    data = (
        " Without sha256 each host took what its source had at that moment: give it."
        if any(name.startswith("data ") for name in names)
        else ""
    )
    raise DeployError(
        "No host was switched: they would have different releases, and hosts behind a balancer are one API.\n"
        f"{by_release(releases)}\nThey differ in: {', '.join(names) or 'what they are made of'}.{virtualenv}{data} Give all "
        "hosts the same settings (host_vars), or deploy to a part of them with --limit."
    )


def target(found: Found, wanted: str) -> str:
    """Return the release to which all hosts go back, raise an error when there is none that all of them have.

    Not named, it is the one that each host has either live or as the good one before the live one. So hosts that a roll
    has reached go back to what the others still have.
    """
    unread = [host for host, one in found.items() if "releases" not in one]
    if unread:
        raise DeployError(
            f"Nothing was touched: the releases of {', '.join(unread)} could not be read."
        )
    unable = {
        release["id"]: f"on {host}: {release['unable']}"
        for host, one in found.items()
        for release in one["releases"]
        if release.get("unable") and release["id"] != one["live"]
    }
    found = {
        host: {**one, "releases": [release["id"] for release in one["releases"]]}
        for host, one in found.items()
    }
    release = _common(found, wanted)
    if release in unable:
        raise DeployError(
            f"Nothing was touched: release {release} cannot start any more {unable[release]}. Name one that can with "
            f"-e api_endpoint_release=<id> (`{USUAL}playbooks/releases.yml` lists them), or deploy the older code or data "
            "with the whole of site.yml."
        )
    return release


def _common(found: Found, wanted: str) -> str:
    """Return the release that is named, or the one that all hosts have live or before the live one."""
    if wanted:
        without = [host for host, one in found.items() if wanted not in one["releases"]]
        if not without:
            return wanted
        raise DeployError(
            f"Nothing was touched: there is no release {wanted!r} on {', '.join(without)}.\n{overview(found)}"
            "Give one that all hosts have, or leave those out with --limit."
        )
    candidates = {one["previous"] for one in found.values()}
    fitting = sorted(
        release
        for release in candidates - {""}
        if all(release in (one["live"], one["previous"]) for one in found.values())
    )
    if len(fitting) == 1:
        return fitting[0]
    raise DeployError(
        "Nothing was touched: the hosts do not have the same good release before the live one.\n"
        f"{overview(found)}Name one: `{BACK} -e {RELEASE}<id>`"
    )


def overview(found: Found) -> str:
    """Return a table of which releases the hosts have."""
    rows = [("host", "live", "before it", "all")]
    for host, one in found.items():
        rows.append((host, one["live"] or "-", one["previous"] or "-", ", ".join(one["releases"])))
    return aligned(rows)


def alike(lives: dict[str, str]) -> str:
    """Say whether the hosts have the same release live; empty when there is nothing to compare."""
    known = {host: release for host, release in lives.items() if release}
    if len(known) < 2:
        return ""
    if len(set(known.values())) == 1:
        return f"All {len(known)} hosts have the same release live."
    return f"NOT ALL HOSTS HAVE THE SAME RELEASE LIVE:\n{by_release(known)}"


def line_of(status: dict[str, Any], dry: bool) -> tuple[str, str]:
    """Return the release that a host has now, and what became of it in this run."""
    before, after = str(status.get("before") or ""), str(status.get("after") or "")
    match status["state"]:
        case "unreachable":
            return "?", "cannot be reached; left out"
        case "unchecked":
            return "?", "FAILED, see above"
        case "preparing" | "activating":
            return "?", f"LOST while it was {status['state']}"
        case "failed":
            reason = printable((str(status.get("reason") or "").splitlines() or [""])[0])[:LONGEST]
            if not before or not after:
                return after or before or "-", f"FAILED: {reason}"
            still = "still serves the release before" if after == before else f"until now {before}"
            return after, f"FAILED, {still}: {reason}"
        case "waiting":
            return before or "-", "not touched"
    now = after or before
    return (
        now or "-",
        ""
        if now == before or not before
        else f"{'would be; now' if dry else 'until now'} {before}",
    )


def summary(found: Found, action: str = "site.yml", dry: bool = False) -> tuple[bool, str]:
    """Return whether no host failed, and a text of how each host ended and what to do."""
    rows = [("host", "release", "")]
    rows += [(host, *line_of(status, dry)) for host, status in found.items()]
    text = aligned(rows)
    failed = [
        host
        for host, status in found.items()
        if status["state"] not in ("done", "waiting", "unreachable")
    ]
    waiting = [host for host, status in found.items() if status["state"] == "waiting"]
    unreachable = [host for host, status in found.items() if status["state"] == "unreachable"]
    if failed:
        stopped = (
            f"The first failure has stopped the run: {', '.join(waiting)} not touched. "
            if waiting
            else ""
        )
        others = (
            f"Hosts that have the release already are left alone. Or go back everywhere: `{BACK}`"
            if len(found) > 1
            else ""
        )
        text += (
            f"{stopped}Correct what failed (see above), and run `{USUAL}{action}` again. {others}".rstrip()
            + "\n"
        )
    if unreachable:
        text += (
            f"When {', '.join(unreachable)} can be reached again, run `{USUAL}site.yml` once more: a balancer uses it "
            "as soon as it answers, whatever release it has.\n"
        )
    return not failed, text
