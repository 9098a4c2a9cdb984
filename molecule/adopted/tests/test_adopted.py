"""An app made for the old template runs unchanged."""

import subprocess
from pathlib import Path

from outcomes import (
    MARKED_ADDRESS,
    MARKED_AGENT,
    ROOT,
    assert_json_error,
    assert_readable_by_a_browser,
    wait_until,
)

SCENARIO = Path(__file__).resolve().parents[1]


def test_it_answers_from_all_its_data(api):
    answer = api.get("/api/v1/title?title=Marie%20Curie")
    assert answer.status == 200, answer.body
    assert answer.json == {
        "title": "Marie_Curie",
        "topic": "physics",
        "found": ["Marie_Curie"],
        "bytes": 100_000,
        "notes": "kept on the old volume",
    }


def test_its_own_cors_headers_and_ours_do_not_add_up(api):
    for path in ("/api/v1/title?title=Marie%20Curie", "/api/v1/title?title=x", "/nowhere"):
        assert_readable_by_a_browser(api.get(path))


def test_both_names_lead_to_it(api):
    assert api.get("/api/v1/seen", headers={"Host": "titles-old.wmcloud.org"}).status == 200
    assert_json_error(api.get("/api/v1/seen", headers={"Host": "language.wmcloud.org"}), 404)


def seen(api):
    """Return how many titles the app has taken from its queue on the disk and counted in its database."""
    return api.get("/api/v1/seen").json["seen"]


def test_its_queue_and_its_database_are_written(api):
    before = seen(api)
    assert api.get("/api/v1/title?title=Ada%20Lovelace").status == 200
    wait_until(lambda: seen(api) > before, "the title is counted")


def test_it_writes_nothing_else(api):
    assert api.get("/api/v1/overwrite?path=queue/own").json["written"]
    api.host.check_output(f"rm {ROOT}/state/app/queue/queue/own")
    for path in ("wsgi.py", "flask_config.yaml", "new", "resources/titles.tsv.gz", "weights.bin", "p3env/new",
                 "/etc/api-endpoint/wsgi.py", "/extrastorage/notes.txt"):  # fmt: skip
        assert not api.get(f"/api/v1/overwrite?path={path}").json["written"], path
    assert api.host.file("/srv/models").user == "root"


def test_the_settings_arrive(api):
    assert api.get("/api/v1/seen").json["mode"] == "from the vars file"
    assert len(api.host.check_output(f"pgrep --parent {api.main_pid()}").split()) == 2
    environment = api.host.check_output(f"tr '\\0' '\\n' < /proc/{api.main_pid()}/environ")
    assert 'GREETING=100% "quoted" ünïcode $HOME' in environment.splitlines()
    settings = api.host.file(f"{ROOT}/current/gunicorn.conf.py").content_string
    assert "preload_app = False\n" in settings
    assert "backlog = 256\n" in settings
    assert "reuse_port = False\n" in settings
    assert_json_error(api.ask("POST", "/api/v1/seen", b"x" * 11_000), 413)
    assert "rotate 30" in api.host.file("/etc/logrotate.d/api-endpoint").content_string


def test_the_unwanted_requirement_was_left_out_and_the_compiled_one_was_compiled(api):
    installed = api.host.check_output(f"{ROOT}/p3env/bin/python -m pip freeze").lower()
    assert "uwsgi" not in installed
    assert "pyyaml==6.0.3" in installed
    assert "flask==3.1" in installed
    assert "pyahocorasick==2.2.0" in installed
    owner = api.host.check_output(f"stat --dereference --format=%U {ROOT}/p3env")
    assert owner == "www-data"


def test_the_app_does_not_learn_who_called(api):
    told = api.get("/api/v1/caller").json
    assert not told["address"]
    text = str(told)
    assert MARKED_ADDRESS not in text
    assert MARKED_AGENT not in text
    assert told["threads"] == "2"


def test_a_header_of_its_own_reaches_the_app(api):
    told = api.get("/api/v1/caller", headers={"X-Token": "given", "X-Other": "not-given"}).json
    assert "given" in str(told)
    assert "not-given" not in str(told)


def test_the_firewall_admits_what_is_named_and_nothing_else(api):
    host = api.host
    other = api.container[:-2] + ("13" if api.container.endswith("12") else "12")
    address = host.check_output("hostname -i").split()[0]
    for port in (9100, 9200):
        host.check_output(
            f"systemd-run --quiet --unit=listener-{port} python3 -m http.server {port} --bind 0.0.0.0"
        )
    # What the firewall drops gets no answer at all, however long somebody waits.
    code = f"""
import errno, socket
for port in (22, 80, 9100, 9200):
    with socket.socket() as client:
        client.settimeout(5 if port == 9200 else 60)
        print(port, errno.errorcode.get(client.connect_ex(({address!r}, port)), "admitted"))
"""
    try:
        wait_until(
            lambda: (
                len(host.run("ss -tlnH sport = :9100 or sport = :9200").stdout.splitlines()) == 2
            ),
            "they listen",
        )
        tried = subprocess.run(
            ["docker", "exec", other, "python3", "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        host.check_output("systemctl stop listener-9100 listener-9200")
    assert tried.stdout.splitlines() == [
        "22 admitted",
        "80 admitted",
        "9100 admitted",
        "9200 EAGAIN",
    ]
    assert host.service("nftables").is_enabled


def test_security_upgrades_install_themselves(api):
    shown = api.host.check_output("apt-config dump APT::Periodic::Unattended-Upgrade")
    assert shown == 'APT::Periodic::Unattended-Upgrade "1";'
    assert api.host.run("unattended-upgrade --dry-run").rc == 0


def test_the_revision_is_the_repositorys(api):
    commit = api.host.check_output("git -c safe.directory=* -C /home/git/titles.git rev-parse main")
    assert f'"revision": "{commit}"' in api.host.file(f"{ROOT}/current/release.json").content_string


def test_new_code_in_git_goes_live_by_its_tag_alone_and_what_the_app_wrote_outlives_it(
    apis, everywhere
):
    counted = [seen(api) for api in apis]
    assert all(counted), "nothing was written before"
    for api in apis:
        api.host.check_output(
            "cd /srv/working && sed -i 's/no such title/unknown title/' model/wsgi.py && "
            "git -c user.name=somebody -c user.email=somebody@example.org commit --quiet --all --message Better && "
            "git -c safe.directory=* -C /home/git/titles.git fetch --quiet /srv/working main:main && chown -R git: /home/git"
        )
    slots = [api.slot for api in apis]
    run = everywhere("-e", f"@{SCENARIO / 'vars.yml'}", "--tags", "app")
    assert run.status == 0, run.output
    for api, slot, count in zip(apis, slots, counted, strict=True):
        assert api.get("/api/v1/title?title=x").json["error"] == "unknown title"
        assert api.slot != slot
        assert seen(api) >= count
