# SPDX-License-Identifier: GPL-3.0-or-later
"""The project's error, and the words for any error."""

from __future__ import annotations

import errno
import os


class DeployError(Exception):
    """A problem that the user can fix; its text says what, where and how."""


def describe_error(error: BaseException) -> str:
    """Say an error in words that a user can act on."""
    text = str(error) or type(error).__name__
    if isinstance(error, DeployError):
        return text
    if isinstance(error, OSError) and os.strerror(errno.ENOSPC) in text:
        return (
            f"The host's disk is full: {text[-600:]}\n`df -h` and `df -i` on the host say which. Free some room, or let "
            "fewer releases be kept (api_endpoint_keep_releases); then run again."
        )
    return text if isinstance(error, OSError) else f"{type(error).__name__}: {text}"
