"""Runs of site.yml on deployed hosts: a run with nothing to do changes nothing, and a bad version stays away from traffic.

Each run is one for all hosts. They are no cluster here, so none waits for another one.
"""

import json

import pytest
from outcomes import ROOT

AT_ONCE = ("-e", '{"api_endpoint_serial": ["100%"]}')
SECOND = ("-e", '{"api_endpoint_name": "second", "api_endpoint_server_names": ["second.example"]}')


def assert_changed_nothing(run, apis):
    assert run.status == 0, run.output
    assert run.changed == [0] * len(apis), run.output


def test_two_endpoints_live_on_one_host(apis, everywhere):
    run = everywhere(*AT_ONCE, *SECOND)
    assert run.status == 0, run.output
    for api in apis:
        for name in (api.name, "second.example"):
            assert api.get("/readyz", headers={"Host": name}).status == 200
        units = api.host.check_output(
            "systemctl list-units --plain --no-legend '*@blue.service' '*@green.service'"
        )
        assert len(units.splitlines()) == 2, units
        assert api.host.file("/var/log/gunicorn-second/access.log").exists


def test_the_next_run_repairs_what_was_changed_by_hand(apis, everywhere):
    site = "/etc/nginx/sites-available/api-endpoint"
    for api in apis:
        api.host.check_output(
            f"echo '# by hand' >> {site} && rm {ROOT}/p3env && systemctl disable {api.unit} && systemctl stop {api.unit}"
        )
    run = everywhere(*AT_ONCE)
    assert run.status == 0, run.output
    for api in apis:
        assert api.get("/readyz").status == 200
        assert api.host.file(f"{ROOT}/p3env/bin/python").exists
        assert api.host.service(api.unit).is_enabled
        assert "# by hand" not in api.host.file(site).content_string


def test_a_dry_run_reports_nothing_on_a_deployed_host(apis, everywhere):
    assert_changed_nothing(everywhere("--check", "--diff"), apis)


def test_neither_endpoint_changes_the_other_one(apis, everywhere):
    assert_changed_nothing(everywhere(*SECOND), apis)
    assert_changed_nothing(everywhere("--tags", "setup,app,model,nginx"), apis)


@pytest.mark.full
@pytest.mark.parametrize("tag", ["setup", "app", "model"])
def test_each_tag_works_alone_and_changes_nothing(apis, everywhere, tag):
    assert_changed_nothing(everywhere("--tags", tag), apis)


def test_the_tag_nginx_works_alone_and_changes_nothing(apis, everywhere):
    assert_changed_nothing(everywhere("--tags", "nginx"), apis)


def test_a_version_that_does_not_boot_is_refused_and_the_live_one_stays(apis, everywhere):
    slots = [api.slot for api in apis]
    bad = {"api_endpoint_flask_config": {"MODEL_FILE": "nowhere.ftz"}}
    run = everywhere("--tags", "app", *AT_ONCE, "-e", json.dumps(bad))
    assert run.status != 0
    assert [api.slot for api in apis] == slots
    for api in apis:
        told = run.said.partition(f"[{api.container}]: FAILED!")[2].partition("FAILED!")[0]
        assert (
            'was not brought live. It failed at the step "start": it stopped with status' in told
        ), run.output
        assert "nowhere.ftz" in told, "the message quotes the app's last log lines"
        assert "is still live" in told, run.output
        assert api.get("/readyz").status == 200
        assert api.running == api.enabled == [api.unit]
