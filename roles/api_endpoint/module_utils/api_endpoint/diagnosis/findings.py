# SPDX-License-Identifier: GPL-3.0-or-later
"""What a diagnosis finds, in which order it is told, and what is blanked out of it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from ansible.module_utils.api_endpoint.urls import hide

# From what is said first to what is said last. A symptom comes after every cause, because it goes with its cause.
CAUSE, SYMPTOM, RISK, NOTE = "cause", "symptom", "risk", "note"
ORDER = (CAUSE, SYMPTOM, RISK, NOTE)

LINES = 15  # of evidence that a finding has at most
LENGTH = 300  # characters of such a line

ADDRESS, SECRET = "[address]", "[secret]"
# IPv4 addresses, also as they stand in names of hosts (192-0-2-1), and all that might be one of IPv6.
IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:([.-])\d{1,3})(?:\1\d{1,3}){2}(?![\d])")
IPV6 = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:]*(?:\d+\.\d+\.\d+\.\d+)?(?:%\w+)?"
)
# What stands after such a word is nobody's business, whoever wrote it there; nor is what was asked.
WORDS = re.compile(
    r"(?i)(\b[\w-]*(?:password|passwd|secret|token|api[_-]?key|authorization|cookie)[\w-]*[\"']?\s*[=:]\s*[\"']?)"
    r"(?:(?:bearer|basic)\s+)?[^\s\"',;]+"
)
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")
REFERRER = re.compile(r'(?<=referrer: ")[^"]*')
QUERY = re.compile(r"(?<=[\w/])\?[^\s\"']+=[^\s\"']*")
SHORTEST = (
    4  # characters of a secret's value; blanking out shorter ones would leave nothing to read
)


@dataclass(frozen=True)
class Finding:
    """Something that is not well."""

    kind: str
    what: str  # one sentence
    evidence: list[str] = field(default_factory=list)
    remedy: list[str] = field(
        default_factory=list
    )  # commands: those with ansible-playbook on the laptop, the others on the host


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings, the likeliest cause first: by their kind, then as the checks are listed."""
    return sorted(findings, key=lambda finding: ORDER.index(finding.kind))


def is_well(findings: Iterable[Finding]) -> bool:
    """Tell whether nothing needs to be done."""
    return all(finding.kind == NOTE for finding in findings)


class Redactor:
    """Blanks out addresses, and the values of secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        parts = {
            part
            for secret in secrets
            for part in (secret, *secret.splitlines())
            if len(part.strip()) >= SHORTEST
        }
        forms = {form for part in parts for form in (part, quote(part, safe=""), repr(part)[1:-1])}
        # The longest first: one may be a part of another.
        self.secrets = sorted(forms, key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return a text without them."""
        for secret in self.secrets:
            text = text.replace(secret, SECRET)
        text = QUERY.sub("?…", REFERRER.sub("…", hide(text)))
        text = WORDS.sub(rf"\1{SECRET}", text)
        text = BEARER.sub(rf"\1 {SECRET}", text)
        return IPV4.sub(ADDRESS, IPV6.sub(_blank, text))

    def finding(self, finding: Finding) -> Finding:
        """Return a finding without them, and with as much evidence as one can read."""
        lines = [
            line.rstrip() for text in finding.evidence for line in self.text(text).splitlines()
        ]
        return replace(
            finding,
            what=self.text(finding.what),
            evidence=[line[:LENGTH] for line in lines[-LINES:]],
            remedy=[self.text(command) for command in finding.remedy],
        )


def _blank(found: re.Match[str]) -> str:
    """Return what stands for something with colons: times and the like stay."""
    address, percent, _zone = found[0].partition("%")
    for end in range(len(address), 1, -1):
        # A sentence may go on with a colon.
        if address[end:].strip(":"):
            break
        try:
            ipaddress.IPv6Address(address[:end])
        except ValueError:
            continue
        return ADDRESS + ("" if percent else address[end:])
    return found[0]


def last_traceback(text: str) -> list[str]:
    """Return the lines of the last traceback in a log; none when there is none."""
    lines = text.splitlines()
    starts = [
        number
        for number, line in enumerate(lines)
        if line.lstrip().startswith("Traceback (most recent call last)")
    ]
    if not starts:
        return []
    found = [lines[starts[-1]]]
    for line in lines[starts[-1] + 1 :]:
        # Where Python itself is says nothing.
        if "<frozen importlib" not in line:
            found.append(line)
        if line and not line[0].isspace():
            break
    return found


def summary(name: str, findings: list[Finding], about: str) -> str:
    """Return what there is to say of an endpoint, as text; each line has its end, which keeps Ansible from folding it."""
    lines = [f"{name}: {verdict(findings)} {about}".rstrip()]
    for number, finding in enumerate(findings, 1):
        lines.append(f"{number}. [{finding.kind}] {finding.what}")
        lines += [f"     | {line}" for line in finding.evidence]
        lines += [f"     $ {command}" for command in finding.remedy]
    return "".join(f"{line}\n" for line in lines)


def verdict(findings: list[Finding]) -> str:
    """Say in a few words how it is."""
    if is_well(findings):
        return "well."
    return "UNWELL; the likeliest cause first:"
