# SPDX-License-Identifier: GPL-3.0-or-later
"""All that a diagnosis looks at, from the ground up: what stands further up is the cause of what fails further down."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ansible.module_utils.api_endpoint.diagnosis.checks import app, host, nginx, start
from ansible.module_utils.api_endpoint.diagnosis.findings import NOTE, Finding, ranked
from ansible.module_utils.api_endpoint.diagnosis.state import EndpointState

Check = Callable[[EndpointState], Iterator[Finding]]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("other deployments in progress", host.deployment),
    ("reboots that are due", host.reboot),
    ("the disks: bytes, files, and whether they can be written", host.disks),
    ("the volume with the model data", host.volume),
    ("the clock", host.clock),
    ("memory, and processes that were killed for it", host.memory),
    ("names and connections to the outside, if the app may have them", host.network),
    ("the link that says which version is live", app.live_link),
    ("whether the Python of the live version is the one that its packages fit", start.python),
    ("the service's account", start.account),
    ("the parts of the live version", app.parts),
    ("the model data, by size and time", app.data),
    ("rights along every path that the service needs", app.rights),
    ("code and settings of the live version, against what was proven", app.edits),
    ("time-outs against the time that a start takes", app.start_timeout),
    ("whether the app loads, in its sandbox", app.loads),
    ("disks that the next boot would not mount", start.mounts),
    ("whether gunicorn would start again, in its sandbox", start.gunicorn),
    ("the virtualenv, against what was installed", start.packages),
    ("whether the service is on, now and at the next boot", app.switched_on),
    ("the service's socket", app.socket),
    ("who listens on the port", nginx.port),
    ("nginx's configuration", nginx.configuration),
    ("whether nginx runs, now and at the next boot", nginx.switched_on),
    ("what is not as the role makes it", app.drift),
    ("what the app's log says of the fork, of threads and of the sandbox", app.hints),
    ("whether the service stays up", app.service),
    ("the health request over the app's own socket", app.over_socket),
    ("the health request through nginx", nginx.through_nginx),
)


def diagnose(observed: EndpointState) -> tuple[list[Finding], list[tuple[str, str]]]:
    """Return the findings, the likeliest cause first, and for each check what came out of it."""
    if nothing := list(app.deployed(observed)):
        return nothing, [("whether anything was deployed", "found")]
    observed.look()
    findings: list[Finding] = []
    looked = []
    for title, check in CHECKS:
        try:
            found = list(check(observed))
            outcome = (
                "found"
                if any(finding.kind != NOTE for finding in found)
                else "noted"
                if found
                else "well"
            )
        except Exception as error:
            # A host in a bad way: one look that fails must not hide what the others see.
            found = [
                Finding(
                    NOTE,
                    f"It could not be looked at: {title}.",
                    [f"{type(error).__name__}: {error}"],
                )
            ]
            outcome = "could not be looked at"
        findings += found
        looked.append((title, outcome))
    return ranked(findings), looked
