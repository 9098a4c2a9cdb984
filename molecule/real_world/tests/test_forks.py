"""What an app makes at import, what its views need, what the sandbox refuses: right answers, or the setting that helps."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from outcomes import PROJECT, ROOT

VARIABLES = f"@{PROJECT / 'molecule/real_world/vars.yml'}"
# A line back for each line that comes, as a database answers; a line each, so that answers can be mixed up.
STORE = """
import socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
Server(("127.0.0.1", 7070), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def run(playbook):
    """Return what runs a playbook with the scenario's variables and these, without the role's prefix."""

    def run(*options, name="site.yml", app="", **variables):
        variables = {"health_path": "/", "health_status": [], "smoke_requests": [], **variables}
        given = {f"api_endpoint_{name}": value for name, value in variables.items()}
        if app:
            given["api_endpoint_app_dir"] = f"molecule/real_world/apps/{app}"
        return playbook(
            *options, "--extra-vars", VARIABLES, "--extra-vars", json.dumps(given), name=name
        )

    return run


@pytest.fixture(scope="module")
def _store(host):
    host.check_output("systemd-run --unit=store python3 -c %s", STORE)
    yield
    host.run("systemctl stop store")


@pytest.mark.usefixtures("_store")
def test_callers_get_their_own_answers_from_an_app_that_connects_at_import(api, run):
    deployed = run(app="at_import", smoke_requests=[{"path": "/value?n=7", "text": '"got":7'}])
    assert deployed.status == 0, deployed.output
    assert (
        "Loaded in each worker, since a fork would share or lose: the thread 'squares'; "
        in deployed.said
    )
    for found in ("a connection to 127.0.0.1:7070", f"the database {ROOT}/", "MB of memory more."):
        assert found in deployed.said, deployed.output
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: api.get(f"/value?n={n}").json, range(200)))
    assert answers == [{"got": n, "rows": 1, "square": n * n} for n in range(200)]


@pytest.mark.full
@pytest.mark.usefixtures("_store")
def test_with_preload_true_it_is_refused(api, run):
    before = api.release
    refused = run("--tags", "app", app="at_import", preload=True)
    assert refused.status != 0, refused.output
    line = "Refused to fork with api_endpoint_preload: true, since a fork would share or lose: the thread 'squares'; "
    assert line in refused.said, refused.output
    assert api.release == before


def test_a_view_that_needs_the_main_thread_leads_to_the_setting(api, run):
    app = {
        "app": "main_thread",
        "smoke_requests": [{"path": path} for path in ("/alarm", "/loop", "/database")],
    }
    before = api.release
    refused = run("--tags", "app", **app)
    assert refused.status != 0, refused.output
    assert "only the main thread may" in refused.said, refused.output
    assert "Set api_endpoint_worker_class: sync." in refused.said, refused.output
    assert api.release == before
    deployed = run("--tags", "app", worker_class="sync", **app)
    assert deployed.status == 0, deployed.output


REFUSED = {
    "/replace": "The app writes into its own folder, which is read-only.",
    "/etc": "The app writes where only the system may.",
    "/home": "The app looks into a home folder, which the sandbox hides.",
    "/temporary": "set api_endpoint_temporary_size",
    "/network": "{api_endpoint_service_settings: {RestrictAddressFamilies: AF_NETLINK}}",
    "/process": "{api_endpoint_service_settings: {ProtectProc: default}}",
    "/gpu": "List the device in api_endpoint_devices.",
    "/affinity": '{api_endpoint_service_settings: {SystemCallFilter: "@resources"}}',
    "/code": "{api_endpoint_jit: true}",
    "/large": "{api_endpoint_file_size_limit: ",
    "/files": "{api_endpoint_service_settings: {LimitNOFILE: ",
}


def test_what_the_sandbox_refuses_leads_to_the_setting(api, run):
    variables = {
        "app": "refused",
        "writable_paths": ["state.json", "app.log"],
        "temporary_size": "10M",
        "jit": False,
    }
    deployed = run("--tags", "app", **variables)
    assert deployed.status == 0, deployed.output
    assert (
        "wsgi.py has os.replace, and api_endpoint_writable_paths the file state.json."
        in deployed.said
    )
    for path in ("/memory", "/rotate"):
        assert api.get(path).status == 200
    assert {path: api.get(path).status for path in REFUSED} == dict.fromkeys(REFUSED, 500)
    found = run(name="playbooks/diagnose.yml", **variables)
    assert found.status != 0, found.output
    for words in REFUSED.values():
        assert words in found.said, f"{words!r} is not in:\n{found.output}"
