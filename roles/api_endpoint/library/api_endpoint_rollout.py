#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put a release together and bring it live: start it, prove it, switch to it, ask it through nginx."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_rollout
short_description: Bring a release live, or go back to one, without failing a request
description:
  - With O(components), first makes O(root)C(/releases/<id>), where the id is a digest of all that goes in. Equal inputs are
    the same release. It holds the app's code, a link to each artifact at its C(dest), the settings files, C(p3env) (a link
    to its virtualenv) and C(release.json). It is built under another name and renamed when it is whole; then it never
    changes. Before it gets its name, the build commands in its settings (C(rollout.json)) run in its folder, as the app's
    account.
  - Starts the release in the idle one of two slots, waits until its health path answers as expected over its own socket,
    puts the smoke requests to each of its workers, runs the warm-up command, and only then turns C(live), one link, to that
    slot. nginx connects through the link, so nothing is reloaded. The old slot is drained and stopped.
  - With the strategy C(restart) the old version is stopped first, for hosts without memory for two. Meanwhile requests wait
    on a socket that systemd holds; they are answered by the new version, or by the old one when the new one is refused.
  - How a release is proven stands in its C(rollout.json), so that a rollback asks what was asked then.
  - A release that is refused is stopped and marked, its last log lines are shown, and the module fails. The old release
    is still live.
  - The work is done by a process of its own on the host, which ends whatever becomes of the connection.
  - When that process is killed while requests are held, the unit C(<name>-fallback) at once starts the live release again
    and resumes the requests.
  - A release that is live already is left alone. What an interrupted run left is repaired or removed.
  - All of it is one module because each further one costs the time of a connection and of a start of Python, also when
    there is nothing to do.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  root:
    description: Absolute path of the endpoint's folder on the host.
    type: path
    required: true
  data_dir:
    description: Absolute path of the store of artifacts.
    type: path
    required: true
  release:
    description:
      - Id of a release that is there, where O(components) does not say what it consists of.
      - With O(rollback), the one to go back to; when empty, the good one that was deployed before the live one.
    type: str
    default: ""
  components:
    description:
      - What the release consists of. Leave a component out to keep the live one, so new data alone means the live code with
        new data. Leave all of it out to bring O(release) live.
      - V(null) for a value means that it is not known yet, as happens in check mode on a clean host.
    type: dict
    suboptions:
      code:
        description: Digest of the code.
        type: str
      virtualenv:
        description: Key of the virtualenv.
        type: str
      artifacts:
        description: The artifacts, as returned by M(api_endpoint_artifacts).
        type: list
        elements: dict
      settings:
        description: Settings files, content by name, written beside the WSGI module.
        type: dict
      writable_paths:
        description: Paths, relative to the app's folder, that the app may write. They outlive the release.
        type: list
        elements: str
  revision:
    description: The git commit of the code, for C(release.json).
    type: str
    default: ""
  health_check:
    description: How to check the health of the live release through nginx in the end, as M(api_endpoint_health) does.
    type: dict
    suboptions:
      port:
        description: Port of nginx.
        type: int
        default: 80
      server_name:
        description: Name to send as Host header.
        type: str
        required: true
      path:
        description: Path that is asked, unless the release has its own.
        type: str
        default: /
      status:
        description: Statuses that mean healthy, unless the release has its own. When empty, any below 500.
        type: list
        elements: int
        default: []
      timeout:
        description: Seconds to go on asking, unless the release has its own.
        type: int
        default: 10
      would_change:
        description: Whether a run changes nginx before. Then a dry run does not fail when nothing is healthy.
        type: bool
        default: false
  rollback:
    description: Go back to a release that was built before.
    type: bool
    default: false
  build_only:
    description: Make the release of O(components), and leave what is live alone.
    type: bool
    default: false
  keep:
    description: How many good releases to keep, with the virtualenvs and data that they need.
    type: int
    default: 3
  user:
    description: Account of the app.
    type: str
    default: www-data
  error_log:
    description: Absolute path of gunicorn's error log, to quote from.
    type: path
    required: true
  task:
    description: The C(task) of an earlier answer, to go on waiting for. The action plugin sees to it.
    type: str
    default: ""
  requirements:
    description: What the list of the app's packages is called in messages.
    type: str
    default: requirements.txt
  audit_log:
    description: Absolute path of the file that gets a line for each rollout and each rollback.
    type: path
    required: true
  run:
    description: Token of this run, from M(api_endpoint_lock). Not needed in check mode.
    type: str
    default: ""
  old_unit:
    description:
      - Unit of a service of the old template that still serves. It is left running, with its virtualenv and its settings
        where they are, for M(api_endpoint_legacy_takeover) to stop. When there is no memory for both it is stopped before
        the new version starts, and started again when that is refused.
    type: str
    default: ""
  secrets:
    description:
      - Environment variables of the app that only root may read on the host. They go with the settings; with the live
        settings go the live secrets. They are blanked out in all that is returned, such as a command's output.
    type: dict
    default: {}
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Bring the code live
  api_endpoint_rollout:
    name: api-endpoint
    root: /var/lib/api-endpoint
    data_dir: /srv/api-endpoint/data
    components:
      code: "{{ code.digest }}"
      virtualenv: "{{ venv.key }}"
      artifacts: "{{ data.artifacts }}"
      settings:
        gunicorn.conf.py: "{{ lookup('template', 'gunicorn.conf.py.j2') }}"
    health_check:
      server_name: language.wmcloud.org
    error_log: /var/log/gunicorn/error.log
    audit_log: /var/log/api-endpoint/deploys.log
    run: "{{ lock.token }}"

- name: Go back to the previous release
  api_endpoint_rollout:
    name: api-endpoint
    root: /var/lib/api-endpoint
    data_dir: /srv/api-endpoint/data
    rollback: true
    error_log: /var/log/gunicorn/error.log
    audit_log: /var/log/api-endpoint/deploys.log
    run: "{{ lock.token }}"
"""

RETURN = r"""
release:
  description: Id of the release that was asked for, or found.
  type: str
  returned: always
differs:
  description: The components in which the release differs from the live one.
  type: list
  elements: str
  returned: when components are given, and all are known
components:
  description: What the release is a digest of.
  type: dict
  returned: with O(build_only), when all are known
answer:
  description: The C(status) that was answered through nginx, and the C(release) that is live; an empty one when none is.
  type: dict
  returned: when O(ask) is given
slot:
  description: The slot that is live now.
  type: str
  returned: when a release is live
previous:
  description: Id of the release that was live before; empty when none was.
  type: str
  returned: always
strategy:
  description: C(blue_green) or C(restart).
  type: str
  returned: when a slot was started
why:
  description: Why that strategy.
  type: str
  returned: when a slot was started
seconds:
  description: Seconds from the start of the slot until it was proven.
  type: float
  returned: when a slot was started
proof:
  description: The way of the requests that proved it, C(through nginx) or C(over its socket).
  type: str
  returned: when a slot was started
notes:
  description:
    - What the started version's log tells, with the setting that helps. That the app is loaded in each worker, since it
      would not survive a fork; what the sandbox has refused; how many lines of logs were lost.
  type: list
  elements: str
  returned: when a slot was started
removed:
  description: Ids of the releases that were removed because they are no longer kept.
  type: list
  elements: str
  returned: when a slot was started
repaired:
  description: What was repaired although the release was live already.
  type: list
  elements: str
  returned: when the release was live already
"""

from ansible.module_utils.api_endpoint.release.rollout import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "data_dir": {"type": "path", "required": True},
            "release": {"type": "str", "default": ""},
            "components": {"type": "dict"},
            "revision": {"type": "str", "default": ""},
            "rollback": {"type": "bool", "default": False},
            "build_only": {"type": "bool", "default": False},
            "keep": {"type": "int", "default": 3},
            "user": {"type": "str", "default": "www-data"},
            "error_log": {"type": "path", "required": True},
            "requirements": {"type": "str", "default": "requirements.txt"},
            "audit_log": {"type": "path", "required": True},
            "run": {"type": "str", "default": ""},
            "task": {"type": "str", "default": ""},
            "old_unit": {"type": "str", "default": ""},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "health_check": {
                "type": "dict",
                "options": {
                    "port": {"type": "int", "default": 80},
                    "server_name": {"type": "str", "required": True},
                    "path": {"type": "str", "default": "/"},
                    "status": {"type": "list", "elements": "int", "default": []},
                    "timeout": {"type": "int", "default": 10},
                    "would_change": {"type": "bool", "default": False},
                },
            },
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
