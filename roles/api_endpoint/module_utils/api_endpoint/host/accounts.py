# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the accounts of services and their memberships, with systemd-sysusers."""

from __future__ import annotations

import contextlib
import grp
import pwd
import subprocess

from ansible.module_utils.api_endpoint.errors import DeployError

PURPOSE = (
    "Service account of api_endpoint"  # by which the accounts that the role has made are known
)
FIRST_PERSON_UID, LAST_PERSON_UID = 1000, 60000  # Debian's accounts of people


def ensure(accounts: dict[str, list[str]], check_mode: bool) -> list[str]:
    """Make each account, with a group of the same name, and put it into its further groups.

    Return the accounts that were (or in check mode would be) made or changed. Raise DeployError for root's or a person's.
    """
    lines: dict[str, list[str]] = {}
    for account, groups in accounts.items():
        _refuse_person(account)
        if not _has_account(account):
            lines[account] = [f'u {account} - "{PURPOSE}" /nonexistent']
        missing = [group for group in groups if account not in _members(group)]
        if missing:
            lines.setdefault(account, []).extend(f"m {account} {group}" for group in missing)
    if lines and not check_mode:
        command = [
            "systemd-sysusers",
            "--inline",
            *(line for some in lines.values() for line in some),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DeployError(
                f"The accounts {', '.join(lines)} could not be made: {done.stderr.strip()}"
            )
    return list(lines)


def is_own(account: str) -> bool:
    """Tell whether the role has made an account."""
    return _has_account(account) and pwd.getpwnam(account).pw_gecos == PURPOSE


def is_member(account: str, group: str) -> bool:
    """Tell whether an account is in a group that is not its own."""
    return account in _members(group)


def ids(account: str, group: str) -> tuple[int, int]:
    """Return the numbers of an account and a group."""
    return pwd.getpwnam(account).pw_uid, grp.getgrnam(group).gr_gid


def remove(account: str) -> None:
    """Remove an account with its group. Raise DeployError when that fails."""
    _must("userdel", account)
    with contextlib.suppress(KeyError):
        grp.getgrnam(account)
        _must("groupdel", account)


def leave(account: str, group: str) -> None:
    """Take an account out of a group."""
    _must("gpasswd", "--delete", account, group)


def _must(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DeployError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")


def _refuse_person(account: str) -> None:
    """Raise DeployError when an account is no service's."""
    if not _has_account(account):
        return
    uid = pwd.getpwnam(account).pw_uid
    if uid == 0 or FIRST_PERSON_UID <= uid <= LAST_PERSON_UID:
        whose = "root's" if uid == 0 else "a person's"
        raise DeployError(
            f"The account {account!r} of this host is {whose} (uid {uid}), and an app gets none of those. "
            "Set api_endpoint_user to another name; the account is made when it is missing."
        )


def _has_account(account: str) -> bool:
    try:
        pwd.getpwnam(account)
    except KeyError:
        return False
    return True


def _members(group: str) -> list[str]:
    try:
        return grp.getgrnam(group).gr_mem
    except KeyError:
        return []
