"""A new endpoint of each profile: made, deployed, called, deployed again, by the commands and the files that users have."""

import concurrent.futures
import json
import os
import subprocess
import sys
import time
from urllib.parse import quote

import pytest
import yaml
from load import assert_nothing_failed, load
from outcomes import PROJECT, Api, Run, assert_json_error, assert_readable_by_a_browser

# fastText's library and model are deployed by the scenario default.
HOSTS = {"plain": "debian13", "sklearn": "debian12", "pytorch": "debian12"}
LARGE = ("sklearn", "pytorch")  # their libraries take a while to install
TEXTS = {"Où est la bibliothèque ?": "fr", "Where is the library?": "en"}
WHEELS = "/srv/wheels"


class Endpoint:
    """An endpoint that was made by `make new-endpoint`."""

    def __init__(self, host, folder, profile):
        self.host = host
        self.profile = profile
        self.name = f"my-{profile}"
        self.folder = folder
        self.api = Api(host, f"{self.name}.wmcloud.org")
        self.options: list[str] = []

    def make(self):
        done = subprocess.run(
            ["make", "--no-print-directory", "new-endpoint", f"NAME={self.name}", f"PROFILE={self.profile}",
             f"FOLDER={self.folder}"],
            cwd=PROJECT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        # What is the user's to fill in.
        inventory = self.folder / self.name / "inventory.yml"
        settings = yaml.safe_load(inventory.read_text())
        settings["api_endpoints"]["hosts"][self.name] = {
            "ansible_host": self.host.backend.get_hostname(),
            "ansible_connection": "community.docker.docker",
        }
        inventory.write_text(yaml.safe_dump(settings))

    def deploy(self, *options):
        return self.play("site.yml", *self.options, *options)

    def play(self, *options):
        inventory = self.folder / self.name / "inventory.yml"
        done = subprocess.run(
            ["ansible-playbook", "-i", inventory, *options],
            cwd=PROJECT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return Run(done.returncode, done.stdout + done.stderr)

    @property
    def processes(self):
        """The process ids of its main process and of its workers."""
        live = self.host.check_output(f"basename $(readlink /var/lib/{self.name}/live)")
        main = self.host.check_output(
            f"systemctl show --property=MainPID --value {self.name}@{live}"
        )
        return [main, *self.host.check_output(f"pgrep --parent {main}").split()]

    def predict(self, text):
        """Ask again while the endpoint is busy, as Retry-After says; return the label."""
        deadline = time.monotonic() + 600
        while (
            answer := self.api.get(f"/api/v1/predict?text={quote(text)}", timeout=30)
        ).status == 503:
            assert time.monotonic() < deadline, "no answer within 10 minutes"
            time.sleep(0.5)
        assert answer.status == 200, answer.body
        return answer.json["label"]


def wheel_of_pytorch(folder, host):
    """Bring the build of PyTorch for the CPU to the host; what pip would take by itself is several gigabytes larger."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "--only-binary=:all:",
         "--python-version=3.11", "torch==2.13.0+cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0 and os.environ.get("CI") != "true":
        pytest.skip("no build of PyTorch for the CPU is to be had here")
    assert done.returncode == 0, done.stderr
    subprocess.run(
        ["docker", "cp", "--quiet", f"{folder}/.", f"{host.backend.get_hostname()}:{WHEELS}"],
        check=True,
    )
    host.check_output(f"chmod -R a+rX {WHEELS}")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.full) if name in LARGE else name for name in HOSTS
    ],
)
def endpoint(host, request, tmp_path_factory):
    """Return an endpoint that was made and deployed, on one host for each profile."""
    if not host.backend.get_hostname().endswith(HOSTS[request.param]):
        pytest.skip(f"deployed to {HOSTS[request.param]}")
    endpoint = Endpoint(host, tmp_path_factory.mktemp("endpoints"), request.param)
    if request.param == "pytorch":
        wheel_of_pytorch(tmp_path_factory.mktemp("wheels"), host)
        endpoint.options = [
            "-e",
            json.dumps({"api_endpoint_pip_options": [f"--find-links={WHEELS}"]}),
        ]
    endpoint.make()
    first = endpoint.deploy()
    assert first.status == 0, first.output
    return endpoint


def test_it_answers(endpoint):
    for text, label in TEXTS.items():
        answer = endpoint.api.ask(
            "POST",
            "/api/v1/predict",
            body=json.dumps({"text": text}),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status == 200, answer.body
        assert answer.json["label"] == label
        assert_readable_by_a_browser(answer)
    assert endpoint.api.get("/readyz").json == {"status": "ready"}
    assert_json_error(endpoint.api.get("/api/v1/predict"), 400)
    assert_json_error(
        endpoint.api.ask(
            "POST", "/api/v1/predict", body="text=a", headers={"Content-Type": "text/plain"}
        ),
        415,
    )


def test_the_profile_has_arrived(endpoint):
    profiles = yaml.safe_load((PROJECT / "roles/api_endpoint/vars/main.yml").read_text())[
        "__api_endpoint_profiles"
    ]
    settings = {**profiles["plain"], **profiles[endpoint.profile]}
    main, *workers = endpoint.processes
    assert len(workers) == settings["workers"]
    environment = endpoint.host.check_output(
        f"tr '\\0' '\\n' < /proc/{workers[0]}/environ"
    ).splitlines()
    assert {f"{name}={value}" for name, value in settings["environment"].items()} <= set(
        environment
    )
    live = endpoint.host.check_output(f"basename $(readlink /var/lib/{endpoint.name}/live)")
    denied = endpoint.host.check_output(
        f"systemctl show --property=MemoryDenyWriteExecute --value {endpoint.name}@{live}"
    )
    assert denied == ("no" if settings["jit"] else "yes")
    # Where Hugging Face's libraries, say, keep what they fetch: writable, and outside of the release.
    home = next(line.removeprefix("HOME=") for line in environment if line.startswith("HOME="))
    assert home == f"/var/lib/{endpoint.name}/state/home"
    endpoint.host.check_output(
        f"nsenter --target {main} --mount setpriv --reuid {endpoint.name} --regid {endpoint.name} --clear-groups "
        f"test -w {home}"
    )


def test_a_second_run_changes_nothing(endpoint):
    second = endpoint.deploy()
    assert second.status == 0, second.output
    assert second.changed == [0]


def test_several_workers_of_pytorch_answer_500_requests_and_share_the_weights(endpoint):
    if endpoint.profile != "pytorch":
        pytest.skip("about PyTorch")
    done = endpoint.deploy("-e", '{"api_endpoint_client_rate": 0}')
    assert done.status == 0, done.output
    texts = list(TEXTS) * 250
    with concurrent.futures.ThreadPoolExecutor(32) as clients:
        assert list(clients.map(endpoint.predict, texts)) == [TEXTS[text] for text in texts]
    for worker in endpoint.processes[1:]:
        mapped = endpoint.host.check_output(f"grep -c weights.pt /proc/{worker}/maps")
        assert int(mapped) > 0


def test_both_endpoints_of_the_host_are_there(endpoint):
    """Deployed one after the other, each is still what it was."""
    names = [
        profile
        for profile, host in HOSTS.items()
        if endpoint.host.backend.get_hostname().endswith(host)
    ]
    for profile in names[: names.index(endpoint.profile) + 1]:
        answer = Api(endpoint.host, f"my-{profile}.wmcloud.org").get(
            "/api/v1/predict?text=Where+is+the+library%3F"
        )
        assert answer.json["label"] == "en"


@pytest.mark.full
def test_one_endpoint_goes_and_another_stays_and_then_the_last_one_goes(endpoint, tmp_path_factory):
    if endpoint.profile != "plain":
        pytest.skip("once")
    host = endpoint.host
    other = Endpoint(host, tmp_path_factory.mktemp("others"), "plain")
    other.name = "my-other"
    other.api = Api(host, "my-other.wmcloud.org")
    other.make()
    assert other.deploy().status == 0
    refused = other.play("playbooks/remove.yml")
    assert refused.status != 0
    assert "playbooks/remove.yml -e api_endpoint_remove=my-other" in refused.output
    question = "/api/v1/predict?text=Where+is+the+library%3F"
    with load(endpoint.api, path=question, named_in="label") as result:
        removed = other.play("playbooks/remove.yml", "-e", "api_endpoint_remove=my-other")
    assert removed.status == 0, removed.output
    assert_nothing_failed(result)
    assert traces(host, "my-other") == ""
    assert other.api.get("/").status == 404
    again = other.play("playbooks/remove.yml", "-e", "api_endpoint_remove=my-other")
    assert (again.status, again.changed) == (0, [0]), again.output
    would = endpoint.play("playbooks/remove.yml", "--check")
    assert would.status == 0, would.output
    assert endpoint.predict("Where is the library?") == "en"
    last = endpoint.play("playbooks/remove.yml", "-e", f"api_endpoint_remove={endpoint.name}")
    assert last.status == 0, last.output
    assert traces(host, endpoint.name) == ""
    for unit in ("nginx", "rsyslog"):
        assert host.service(unit).is_running
    assert host.file("/etc/nginx/sites-enabled/default").is_symlink
    assert host.check_output("find / -xdev -nouser") == ""
    assert not host.user("nginx").exists


def traces(host, name):
    """Return where the host has the name: files, accounts, units, configurations; not in logs and in copies of accounts."""
    return host.check_output(
        f"find / -xdev -name '*{name}*' -not -path '/proc/*' -not -path '/sys/*'; find /run -name '*{name}*'; "
        f"grep -rls {name} /etc --exclude='*-' --exclude='*.dpkg-*' || true; mount | grep {name} || true; "
        f"systemctl list-units --all --plain --no-legend '{name}*' '*{name}.mount'"
    )
