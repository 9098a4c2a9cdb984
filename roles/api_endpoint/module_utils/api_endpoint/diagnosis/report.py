# SPDX-License-Identifier: GPL-3.0-or-later
"""Find out why an endpoint is unwell."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.diagnosis.diagnose import diagnose
from ansible.module_utils.api_endpoint.diagnosis.findings import Redactor, is_well, summary
from ansible.module_utils.api_endpoint.diagnosis.state import EndpointState
from ansible.module_utils.api_endpoint.release.secrets import unquote
from ansible.module_utils.basic import AnsibleModule


def secrets(given: dict[str, Any]) -> Iterator[str]:
    """Yield the values of all secrets, those of every release on the host included."""
    yield from (str(value) for value in given["secrets"].values())
    for file in Path(given["root"], "secrets").glob("*"):
        yield from unquote(file.read_text(encoding="utf-8", errors="replace"))


def look(given: dict[str, Any]) -> dict[str, Any]:
    """Look at everything, and say what is not well."""
    begun = time.monotonic()
    mask = Redactor(secrets(given))
    observed = EndpointState(given)
    found, looked = diagnose(observed)
    findings = [mask.finding(finding) for finding in found]
    about = f"(release {observed.release or 'none'}, looked for {time.monotonic() - begun:.1f} s)"
    return {
        "well": is_well(findings),
        "findings": [asdict(finding) for finding in findings],
        "looked": [{"what": what, "outcome": outcome} for what, outcome in looked],
        "about": about,
        "summary": summary(given["name"], findings, about),
    }


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    module.exit_json(changed=False, **look(module.params))
