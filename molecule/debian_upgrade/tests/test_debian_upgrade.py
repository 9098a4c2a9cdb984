"""Debian 12 becomes Debian 13 under a live endpoint: the packages of its virtualenv have lost their Python."""

import re
from pathlib import Path

import pytest
from load import load
from outcomes import ROOT, assert_switched

pytestmark = pytest.mark.full

SETTINGS = ("-e", f"@{Path(__file__).resolve().parents[1] / 'vars.yml'}")
UPGRADE = (
    "grep -rl bookworm /etc/apt | xargs sed -i s/bookworm/trixie/g && apt-get -qq update && "
    "DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o Dpkg::Options::=--force-confold full-upgrade"
)
LOST = "its virtualenv was made for Python 3.11, and /usr/bin/python3 is 3.13 now, as after an upgrade of Debian."


def diagnose(playbook):
    run = playbook(*SETTINGS, name="playbooks/diagnose.yml")
    return run.status, run.said.partition("Show the findings")[2]


def assert_refused_first(api, playbook):
    """What cannot start is refused before anything is brought, built or started."""
    before = api.release, api.releases, api.deploys
    for options in (["--tags", "model"], ["--tags", "app"], ["--tags", "model", "--check"]):
        run = playbook(*SETTINGS, *options)
        assert run.status != 0, run.output
        assert (
            "Run site.yml without tags: the live release cannot start again, because " + LOST
            in run.said
        ), run.output
    assert (api.release, api.releases, api.deploys) == before


def assert_no_way_back(playbook):
    run = playbook(*SETTINGS, name="playbooks/rollback.yml")
    assert run.status != 0, run.output
    assert "Nothing was touched: release " in run.said, run.output
    assert "No older release on this host can. Run site.yml without tags" in run.said, run.output


def test_debian_is_upgraded_under_a_live_endpoint(api, playbook):
    assert (
        playbook(*SETTINGS, "-e", "api_endpoint_workers=1").status == 0
    )  # a second release, to go back from
    upgraded = api.host.run(UPGRADE)
    assert upgraded.rc == 0, upgraded.stderr
    old = api.release

    # Between the upgrade and a restart it answers.
    status, findings = diagnose(playbook)
    assert status != 0
    assert f"1. [risk] The live version runs, and its next start will fail: {LOST}" in findings, (
        findings
    )
    assert_refused_first(api, playbook)
    assert_no_way_back(playbook)
    with load(api) as result:
        run = playbook(*SETTINGS)
    assert_switched(api, run, result, old)
    assert api.get("/").json["python"].startswith("3.13.")
    status, findings = diagnose(playbook)
    assert status == 0, findings
    assert_no_way_back(playbook)

    # A restart that comes before the run: the release from before the upgrade is in the live slot.
    api.host.check_output(
        f"ln -sfn ../../releases/{old} {ROOT}/slots/{api.slot}/release && systemctl restart --no-block {api.unit}"
    )
    api.host.check_output(
        f"timeout 60 sh -c 'until systemctl show {api.unit} | grep -q ^NRestarts=[1-9]; do sleep 0.2; done'"
    )
    status, findings = diagnose(playbook)
    assert status != 0
    assert f"1. [cause] The live version cannot start: {LOST}" in findings, findings
    assert re.search(r"\$ ansible-playbook -i \S+ site\.yml", findings.partition("2. [")[0]), (
        findings
    )
    assert_refused_first(api, playbook)
    run = playbook(*SETTINGS)
    assert run.status == 0, run.output
    assert api.get("/").status == 200
    assert playbook(*SETTINGS).changed == [0]
