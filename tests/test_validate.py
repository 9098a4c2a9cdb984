"""Every rule says which variable is wrong, what it is, and what to do."""

from pathlib import Path

import pytest
import yaml
from ansible.module_utils.api_endpoint.controller.inputs import near_names, unknown_names
from ansible.module_utils.api_endpoint.controller.validate import RANGES, problems
from ansible.playbook.play import Play
from ansible.template import trust_as_template
from helpers import PROJECT, ROLE
from rendering import templar, variables_of

SPECS = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"][
    "main"
]["options"]
PROFILES = {
    profile: {f"api_endpoint_{name}": value for name, value in settings.items()}
    for profile, settings in yaml.safe_load((ROLE / "vars" / "main.yml").read_text())[
        "__api_endpoint_profiles"
    ].items()
}
FACTS = {"distribution": "Debian", "distribution_major_version": "13"}
SHA = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"


def good():
    """The defaults, with what everybody sets."""
    defaults = {name: option["default"] for name, option in SPECS.items() if "default" in option}
    return {
        **defaults,
        **PROFILES["plain"],
        "api_endpoint_server_names": ["language.wmcloud.org"],
        "api_endpoint_app_dir": "app",
        "api_endpoint_user": "www-data",
        "api_endpoint_root": "/var/lib/api-endpoint",
        "api_endpoint_data_dir": "/srv/api-endpoint/data",
        "api_endpoint_release_mounts": ["/etc/api-endpoint"],
        "api_endpoint_artifacts": [{"src": "app/lid.176.ftz", "dest": "lid.176.ftz"}],
        "__api_endpoint_environment": {},
        "__api_endpoint_usual_headers": [
            "Accept-Language",
            "Authorization",
            "Cookie",
            "If-Match",
            "Range",
        ],
    }


def found(facts=FACTS, **changes):
    return problems({**good(), **changes}, facts, {"playbook_dir": str(PROJECT / "playbooks")})


def test_good_settings_have_no_problem():
    assert found() == []


@pytest.mark.parametrize("profile", PROFILES)
def test_no_profile_has_a_problem(profile):
    assert found(**PROFILES[profile]) == []


def test_numbers_may_come_as_text():
    assert found(api_endpoint_port="9000", api_endpoint_workers="2") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"api_endpoint_server_names": []},
            ["is []", "public names", "group_vars/api_endpoints.yml"],
        ),
        ({"api_endpoint_server_names": [""]}, ["has ''", "not a host name"]),
        (
            {"api_endpoint_server_names": ["https://a.example"]},
            ["'https://a.example'", "no scheme"],
        ),
        ({"api_endpoint_server_names": ["a.example; return 200"]}, ["not a host name"]),
        ({"api_endpoint_server_names": ["_"]}, ["not a host name"]),
        ({"api_endpoint_port": 0}, ["api_endpoint_port is 0", "ports from 1 to 65,535"]),
        ({"api_endpoint_port": "65536"}, ["api_endpoint_port is '65536'"]),
        ({"api_endpoint_workers": 0}, ["api_endpoint_workers is 0", "workers from 1 to 256"]),
        ({"api_endpoint_workers": 1.5}, ["api_endpoint_workers is 1.5"]),
        (
            {"api_endpoint_workers": "many"},
            ["api_endpoint_workers is 'many'", "workers from 1 to 256"],
        ),
        ({"api_endpoint_port": 99999}, ["api_endpoint_port is 99999", "ports from 1 to 65,535"]),
        ({"api_endpoint_timeout": -1}, ["api_endpoint_timeout is -1"]),
        ({"api_endpoint_timeout": 60}, ["api_endpoint_proxy_timeout is 60", "the longer one"]),
        (
            {"api_endpoint_worker_class": "asgi", "api_endpoint_cache": {"ttl": 60}},
            ["api_endpoint_cache is set", "WSGI apps only", "Leave api_endpoint_cache out"],
        ),
        ({"api_endpoint_log_days": 365}, ["api_endpoint_log_days is 365", "days from 1 to 90"]),
        ({"api_endpoint_name": "My API"}, ["api_endpoint_name is 'My API'"]),
        (
            {"api_endpoint_volume": {"device": "sdb"}},
            ["api_endpoint_volume.device is 'sdb'", "/dev/sdb"],
        ),
        (
            {"api_endpoint_volume": {"mount": "/etc"}, "api_endpoint_data_dir": "/etc/d"},
            ["mount is '/etc'", "for the volume alone"],
        ),
        ({"api_endpoint_volume": {"label": "a b"}}, ["label is 'a b'", "at most 16"]),
        (
            {"api_endpoint_volume": {"label": "longer-than-twelve", "filesystem": "xfs"}},
            ["at most 12"],
        ),
        (
            {"api_endpoint_volume": {"mount": "/mnt/models"}},
            ["would not be on the volume", "/mnt/models/data"],
        ),
        (
            {
                "api_endpoint_volume": {"mount": "/srv/x"},
                "api_endpoint_data_dir": "/srv/x/d",
                "api_endpoint_root": "/srv/x/r",
            },
            ["Only the data can be on the volume"],
        ),
        (
            {"api_endpoint_max_concurrency": 0},
            ["api_endpoint_max_concurrency is 0", "requests from 1 to 4,000"],
        ),
        (
            {"api_endpoint_max_concurrency": 63},
            ["api_endpoint_max_concurrency is 63", "64 requests at a time"],
        ),
        (
            {"api_endpoint_memory_limit": "4 GB"},
            ["api_endpoint_memory_limit is '4 GB'", "such as 80%"],
        ),
        (
            {"api_endpoint_cors_origins": ["tool.example"]},
            ["api_endpoint_cors_origins has 'tool.example'", "https://"],
        ),
        ({"api_endpoint_cors_origins": []}, ["api_endpoint_cors_origins is []"]),
        (
            {"api_endpoint_cors_credentials": True},
            ["api_endpoint_cors_credentials is true", "Name the origins"],
        ),
        ({"api_endpoint_methods": ["GET", "A B"]}, ["api_endpoint_methods has 'A B'"]),
        (
            {"api_endpoint_methods": ["POST"]},
            ["api_endpoint_methods is ['POST']", "the health request"],
        ),
        ({"api_endpoint_request_headers": ["X_Y"]}, ["api_endpoint_request_headers has 'X_Y'"]),
        (
            {"api_endpoint_request_headers": ["X-Real-IP"]},
            ["'X-Real-IP'", "api_endpoint_forward_client_address"],
        ),
        (
            {"api_endpoint_trusted_proxies": ["10.0.0.1/8"]},
            ["api_endpoint_trusted_proxies has '10.0.0.1/8'"],
        ),
        (
            {"api_endpoint_cache": {"paths": []}},
            ["api_endpoint_cache.paths is []", "turn the cache off"],
        ),
        (
            {"api_endpoint_cache": {"paths": ["api"]}},
            ["api_endpoint_cache.paths has 'api'", "begin with a slash"],
        ),
        ({"api_endpoint_cache": {"paths": ['/a"; #']}}, ["api_endpoint_cache.paths has"]),
        ({"api_endpoint_cache": {"paths": ["/a//b"]}}, ["api_endpoint_cache.paths has '/a//b'"]),
        ({"api_endpoint_cache": {"paths": ["/a%20b"]}}, ["as it is"]),
        (
            {"api_endpoint_cache": {"ttl": 0}},
            ["api_endpoint_cache.ttl is 0", "seconds from 1 to 31,536,000"],
        ),
        ({"api_endpoint_cache": {"ttl": True}}, ["api_endpoint_cache.ttl is True"]),
        (
            {"api_endpoint_cache": {"size": "64 MB"}},
            ["api_endpoint_cache.size is '64 MB'", "such as 64m"],
        ),
        (
            {"api_endpoint_cache": {"size": "8191k"}},
            ["api_endpoint_cache.size is '8191k'", "8m at least"],
        ),
        (
            {"api_endpoint_cache": {"size": 9000}},
            ["api_endpoint_cache.size is 9000", "8m at least"],
        ),
        (
            {"api_endpoint_cache": {"stale": "maybe"}},
            ["api_endpoint_cache.stale is 'maybe'", "true or false"],
        ),
        (
            {"api_endpoint_cache": {"key": ["X-Token"]}},
            ["has 'X-Token'", "does not reach the app", "request_headers"],
        ),
        ({"api_endpoint_cache": {"key": ["X_Y; #"]}}, ["has 'X_Y; #'", "does not reach the app"]),
        (
            {"api_endpoint_cache": {"key": ["User-Agent"]}},
            ["has 'User-Agent'", "does not reach the app"],
        ),
        ({"api_endpoint_cache": {"key": ["cookie"]}}, ["has 'cookie'", "Leave it out"]),
        ({"api_endpoint_cache": {"key": ["If-Match"]}}, ["has 'If-Match'", "Leave it out"]),
        (
            {"api_endpoint_secrets": {"A-B": "12345678"}},
            ["api_endpoint_secrets has the name 'A-B'"],
        ),
        (
            {"api_endpoint_secrets": {"KEY": "short"}},
            ["api_endpoint_secrets['KEY'] is no text of 8 characters"],
        ),
        (
            {"api_endpoint_secrets": {"KEY": "12345678"}, "api_endpoint_environment": {"KEY": "x"}},
            ["both have 'KEY'"],
        ),
        (
            {"api_endpoint_devices": ["nvidia0"]},
            ["api_endpoint_devices has 'nvidia0'", "/dev/nvidia0"],
        ),
        (
            {"api_endpoint_apt_packages": ["libgomp1 ffmpeg"]},
            ["has 'libgomp1 ffmpeg'", "each an element of its own"],
        ),
        ({"api_endpoint_apt_packages": ["-y"]}, ["has '-y'", "names of Debian packages"]),
        ({"api_endpoint_apt_packages": [""]}, ["has ''", "names of Debian packages"]),
        ({"api_endpoint_data_dir": ""}, ["api_endpoint_data_dir is ''", "Give an absolute path"]),
        ({"api_endpoint_service_settings": {"limit": 1}}, ["the name 'limit'", "LimitNOFILE"]),
        (
            {"api_endpoint_service_settings": {"User": "a\nb"}},
            ["api_endpoint_service_settings['User']", "one line"],
        ),
        ({"api_endpoint_firewall_ports": [0]}, ["api_endpoint_firewall_ports has 0"]),
        (
            {"api_endpoint_metrics_listen": "9113"},
            ["api_endpoint_metrics_listen is '9113'", "127.0.0.1:9113"],
        ),
        (
            {"api_endpoint_metrics_listen": "localhost:9113"},
            ["'localhost:9113'", "an address of the host"],
        ),
        ({"api_endpoint_metrics_listen": "::1:9113"}, ["'::1:9113'", "[::1]:9113"]),
        ({"api_endpoint_metrics_listen": "127.0.0.1:99999"}, ["'127.0.0.1:99999'"]),
        ({"api_endpoint_metrics_listen": "127.0.0.1:80"}, ["nginx has that port"]),
        (
            {"api_endpoint_metrics_listen": "10.0.0.5:9113"},
            ["api_endpoint_metrics_clients is empty", "127.0.0.1"],
        ),
        (
            {"api_endpoint_metrics_clients": ["10.0.0.5/8"]},
            ["api_endpoint_metrics_clients has '10.0.0.5/8'"],
        ),
        ({"api_endpoint_user": "nginx"}, ["api_endpoint_user is 'nginx'", "Give another name"]),
        ({"api_endpoint_user": "My API"}, ["api_endpoint_user is 'My API'", "lower-case letters"]),
        (
            {"api_endpoint_temporary_size": "0"},
            ["api_endpoint_temporary_size is '0'", "such as 25%"],
        ),
        (
            {"api_endpoint_file_size_limit": "50%"},
            ["api_endpoint_file_size_limit is '50%'", "such as 20G"],
        ),
        (
            {"api_endpoint_temporary_size": "100%"},
            ["api_endpoint_temporary_size is '100%'", "such as 25%"],
        ),
        ({"api_endpoint_name": "nginx"}, ["api_endpoint_name is 'nginx'", "a name of its own"]),
        ({"api_endpoint_wsgi": "wsgi.py"}, ["api_endpoint_wsgi is 'wsgi.py'", "wsgi:app"]),
        (
            {"api_endpoint_max_body_size": "10 MB"},
            ["api_endpoint_max_body_size is '10 MB'", "such as 10m"],
        ),
        (
            {"api_endpoint_health_path": "readyz"},
            ["api_endpoint_health_path is 'readyz'", "begins with a slash"],
        ),
        ({"api_endpoint_health_path": "/a\r\nX: y"}, ["without spaces"]),
        ({"api_endpoint_health_status": [42]}, ["api_endpoint_health_status has 42"]),
        ({"api_endpoint_environment": {"A-B": "x"}}, ["the name 'A-B'"]),
        (
            {"api_endpoint_environment": {"A": "x\ny"}},
            ["api_endpoint_environment['A']", "one line"],
        ),
        ({"api_endpoint_environment": {"A": None}}, ["api_endpoint_environment['A'] is None"]),
        ({"api_endpoint_root": "lib"}, ["api_endpoint_root is 'lib'", "absolute path"]),
        ({"api_endpoint_data_dir": "data"}, ["api_endpoint_data_dir is 'data'", "absolute path"]),
        ({"api_endpoint_data_dir": "/srv/../etc"}, ["api_endpoint_data_dir is '/srv/../etc'"]),
        ({"api_endpoint_root": "/"}, ["api_endpoint_root is '/'"]),
        ({"api_endpoint_python": "python3"}, ["api_endpoint_python is 'python3'"]),
        (
            {"api_endpoint_python": "/root/.pyenv/shims/python"},
            ["is hidden from the service", "below /opt"],
        ),
        ({"api_endpoint_release_mounts": ["/srv"]}, ["'/srv'", "would hide api_endpoint_data_dir"]),
        ({"api_endpoint_release_mounts": ["etc"]}, ["api_endpoint_release_mounts is 'etc'"]),
        (
            {"api_endpoint_artifacts": [{"dest": "m"}]},
            ["[0] (m) has no source", "exactly one source"],
        ),
        (
            {
                "api_endpoint_artifacts": [
                    {"dest": "m", "src": "app/lid.176.ftz", "url": "https://a.example/m"}
                ]
            },
            ["has src and url", "exactly one"],
        ),
        (
            {"api_endpoint_artifacts": [{"dest": "m", "url": "http://a.example/m"}]},
            ["http://a.example/m", "without a sha256", "sha256sum"],
        ),
        (
            {"api_endpoint_artifacts": [{"dest": "m", "url": "ftp://a/m", "sha256": SHA}]},
            ["'ftp://a/m'", "http"],
        ),
        (
            {
                "api_endpoint_artifacts": [
                    {"dest": "m", "url": "https://a.example/m", "sha256": "abc"}
                ]
            },
            ["64 hexadecimal"],
        ),
        (
            {"api_endpoint_artifacts": [{"dest": "../m", "src": "app/lid.176.ftz"}]},
            ["dest is '../m'", "leaves the release"],
        ),
        (
            {"api_endpoint_artifacts": [{"dest": "/m", "src": "app/lid.176.ftz"}]},
            ["dest is '/m'", "leaves the release"],
        ),
        (
            {"api_endpoint_artifacts": [{"dest": "m", "src": "app/nope"}]},
            ["[0].src is 'app/nope'", "Looked for"],
        ),
        (
            {"api_endpoint_artifacts": [{"dest": "m", "path": "data/m"}]},
            ["[0].path is 'data/m'", "absolute path"],
        ),
        (
            {"api_endpoint_artifacts": [{"dest": "m", "src": "app/lid.176.ftz", "mode": "0666"}]},
            ["mode is '0666'", "octal"],
        ),
        (
            {"api_endpoint_artifacts": [{"dest": "m", "command": "x", "inputs": ["n"]}]},
            ["[0].inputs has 'n'", "it first"],
        ),
        (
            {
                "api_endpoint_artifacts": [
                    {"dest": "m", "url": ["https://a/m", "file:///m"], "sha256": SHA}
                ]
            },
            ["url is 'file:///m'", "or a list"],
        ),
        (
            {
                "api_endpoint_artifacts": [
                    {"dest": "m", "url": "https://a/m", "sha256": SHA, "headers": {"A": "b\nc"}}
                ]
            },
            ["[0].headers has 'A'"],
        ),
        (
            {
                "api_endpoint_artifacts": [
                    {"dest": "m/a", "src": "app/lid.176.ftz"},
                    {"dest": "m", "src": "app/lid.176.ftz"},
                ]
            },
            ["api_endpoint_artifacts[1].dest is 'm'", "api_endpoint_artifacts[0] is already"],
        ),
        ({"api_endpoint_writable_paths": ["../x"]}, ["'../x'", "leaves the release"]),
        ({"api_endpoint_writable_paths": ["lid.176.ftz"]}, ["writable: true"]),
        (
            {"api_endpoint_smoke_requests": [{"path": "x"}]},
            ["api_endpoint_smoke_requests[0].path is 'x'", "begins with"],
        ),
        ({"api_endpoint_smoke_requests": [{"path": "/é"}]}, ["percent-encoded"]),
        (
            {"api_endpoint_smoke_requests": [{"path": "/", "method": "GET /"}]},
            ["[0].method is 'GET /'"],
        ),
        ({"api_endpoint_smoke_requests": [{"path": "/", "status": [42]}]}, ["[0].status has 42"]),
        (
            {"api_endpoint_smoke_requests": [{"path": "/", "headers": {"X": "a\nb"}}]},
            ["[0].headers has 'X'"],
        ),
        (
            {"api_endpoint_serial": [1, "150%"]},
            ["api_endpoint_serial has '150%'", "parts such as 25%"],
        ),
        ({"api_endpoint_serial": [0]}, ["api_endpoint_serial has 0"]),
        ({"api_endpoint_serial": ["half"]}, ["api_endpoint_serial has 'half'"]),
        ({"api_endpoint_serial": [True]}, ["api_endpoint_serial has True"]),
        ({"api_endpoint_serial": []}, ["api_endpoint_serial is []"]),
        (
            {"api_endpoint_balancers": ["lb"], "api_endpoint_health_path": "/$x;"},
            ["api_endpoint_health_path is '/$x;'", "the balancers are to ask for"],
        ),
        ({"api_endpoint_keep_releases": 0}, ["api_endpoint_keep_releases is 0", "releases from 1"]),
        ({"api_endpoint_log_lines": 0}, ["api_endpoint_log_lines is 0", "lines from 1"]),
        (
            {"api_endpoint_release": "0123456789ab"},
            [
                "a deployment does not take",
                "playbooks/rollback.yml -e api_endpoint_release=0123456789ab`",
            ],
        ),
        (
            {"api_endpoint_app_dir": ""},
            ["Neither api_endpoint_app_dir nor api_endpoint_git_url is set", "wsgi.py"],
        ),
        ({"api_endpoint_app_dir": "nope"}, ["api_endpoint_app_dir is 'nope'", "Looked for"]),
        (
            {"api_endpoint_app_dir": "docs"},
            ["api_endpoint_app_dir is 'docs'", "has no wsgi.py", "api_endpoint_wsgi"],
        ),
        ({"api_endpoint_app_subdir": "../x"}, ["api_endpoint_app_subdir is '../x'"]),
        (
            {"api_endpoint_requirements_file": "nope.txt"},
            ["nope.txt does not exist", "api_endpoint_requirements_file"],
        ),
        (
            {"api_endpoint_app_dir": "bench/pytorch_app", "api_endpoint_wsgi": "model:app"},
            ["The code has no requirements.txt", "An empty file says that the app needs nothing"],
        ),
        (
            {"api_endpoint_gunicorn": "gunicorn==21.2.0"},
            ["'gunicorn==21.2.0' is too old", "needs gunicorn 23"],
        ),
        (
            {"api_endpoint_gunicorn": "uwsgi"},
            ["api_endpoint_gunicorn is 'uwsgi'", "such as gunicorn==27.0.1"],
        ),
        (
            {"api_endpoint_pip_packages": ["Gunicorn[gevent] == 20.1"]},
            ["is too old", "api_endpoint_pip_packages"],
        ),
        (
            {"api_endpoint_pip_packages": ["./lib"]},
            ["api_endpoint_pip_packages has './lib'", "requirements.txt"],
        ),
        (
            {"api_endpoint_pip_packages": ["-e ../lib"]},
            ["api_endpoint_pip_packages has '-e ../lib'"],
        ),
        (
            {"api_endpoint_pip_options": ["--find-links=wheels"]},
            ["--find-links wheels", "an index instead"],
        ),
        ({"api_endpoint_pip_options": ["-f", "~/wheels"]}, ["--find-links ~/wheels"]),
        ({"api_endpoint_git_url": "ssh://me:hunter22@example.org/a.git"}, ["api_endpoint_git_key"]),
        *(
            ({name: value}, [f"{name} has a password", "percent-encoded"])
            for name, value in (
                ("api_endpoint_git_url", "https://me:x/hunter22@example.org/a.git"),
                ("api_endpoint_pip_index_url", "https://me:x#hunter22@example.org/simple"),
                ("api_endpoint_pip_extra_index_urls", ["https://me:x hunter22@example.org/simple"]),
                ("api_endpoint_pip_packages", ["x @ git+https://me:x/hunter22@example.org/a.git"]),
            )
        ),
        (
            {
                "api_endpoint_artifacts": [
                    {"url": ["https://a.org/x", "https://me:x/hunter22@b.org/x"], "dest": "x"}
                ]
            },
            ["api_endpoint_artifacts[0].url has a password"],
        ),
        ({"api_endpoint_wsgi": "server.main:app"}, ["has no server/main.py"]),
        (
            {"facts": {"distribution": "Ubuntu", "distribution_major_version": "24"}},
            ["Ubuntu 24", "Debian 12 or 13"],
        ),
        (
            {"facts": {"distribution": "Debian", "distribution_major_version": "11"}},
            ["Debian 11", "Use Debian 12 or 13"],
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(changes, words):
    said = found(**changes)
    assert len(said) == 1, said
    assert "hunter22" not in said[0]
    for word in words:
        assert word in said[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"api_endpoint_memory_limit": "3G"},
        {"api_endpoint_gunicorn": "gunicorn[gevent]>=23"},
        {
            "api_endpoint_pip_packages": [
                "gunicorn @ https://example.org/g.zip",
                "/srv/x-1.0.zip",
                "x @ file:///srv/x.zip",
            ]
        },
        {
            "api_endpoint_pip_options": [
                "--no-index",
                "--find-links=/srv/wheels",
                "-f",
                "https://example.org/x.html",
            ]
        },
        {"api_endpoint_git_url": "ssh://git@example.org/a.git"},
        {"api_endpoint_memory_limit": ""},
        {
            "api_endpoint_cors_origins": ["https://tool.example", "http://localhost:8080"],
            "api_endpoint_cors_credentials": True,
        },
        {"api_endpoint_devices": ["/dev/nvidia0", "char-nvidia-uvm"]},
        {
            "api_endpoint_service_settings": {
                "LimitNOFILE": 9,
                "SystemCallFilter": ["@a", "@b"],
                "PrivateTmp": False,
            }
        },
        {"api_endpoint_secrets": {"API_KEY": "a secret of two lines\nand more"}},
        {"api_endpoint_trusted_proxies": ["203.0.113.7", "2001:db8::/32"]},
        {"api_endpoint_metrics_listen": "[::1]:9113"},
        {
            "api_endpoint_metrics_listen": "10.0.0.5:9113",
            "api_endpoint_metrics_clients": ["10.0.0.9", "fd00::/8"],
        },
        {
            "api_endpoint_cache": {
                "paths": ["/", "/api/v1.0/"],
                "ttl": "60",
                "size": "1g",
                "key": [],
                "stale": "no",
            }
        },
        {
            "api_endpoint_cache": {"key": ["x-token", "accept-language"]},
            "api_endpoint_request_headers": ["X-Token"],
        },
        {
            "api_endpoint_cache": {"key": ["User-Agent"], "ttl": None},
            "api_endpoint_forward_user_agent": True,
        },
    ],
)
def test_what_is_good(changes):
    assert found(**changes) == []


def test_no_message_shows_a_secret():
    said = found(
        api_endpoint_secrets={"KEY": "hush", "A-B": "hush-hush-hush"},
        api_endpoint_environment={"KEY": "x"},
    )
    assert len(said) == 3
    assert "hush" not in "".join(said)


def test_every_problem_is_told_at_once():
    said = found(api_endpoint_port=0, api_endpoint_workers=0, api_endpoint_app_dir="nope")
    assert len(said) == 3


@pytest.mark.parametrize(
    ("given", "is_good"), [("0123456789ab", True), ("current", False), ("../../etc", False)]
)
def test_the_release_to_go_back_to(given, is_good):
    said = problems(
        {**good(), "api_endpoint_release": given},
        FACTS,
        {"playbook_dir": str(PROJECT / "playbooks")},
        rollback=True,
    )
    assert len(said) == (0 if is_good else 1)


def test_going_back_needs_nothing_of_the_laptop():
    given = {
        **good(),
        "api_endpoint_app_dir": "nope",
        "api_endpoint_artifacts": [{"src": "nope", "dest": "m"}],
    }
    assert problems(given, FACTS, {"playbook_dir": str(PROJECT / "playbooks")}, rollback=True) == []


def test_code_from_git_needs_no_folder():
    assert (
        found(api_endpoint_git_url="https://git.example/x.git", api_endpoint_app_dir="nope") == []
    )


def test_an_unverified_download_must_be_asked_for():
    artifact = {"dest": "m", "url": "https://a.example/m", "allow_unverified": True}
    assert found(api_endpoint_artifacts=[artifact]) == []


def test_a_misspelt_name_is_answered_with_the_nearest():
    assert unknown_names(["api_endpoint_worker", "api_endpoint_port"], list(SPECS)) == [
        "api_endpoint_worker is set, but the role has no such variable. Did you mean api_endpoint_workers?"
    ]
    assert (
        "The role's README lists" in unknown_names(["api_endpoint_zzzzzzzzzzzzzzz"], list(SPECS))[0]
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("api_endpoints_workers", "api_endpoint_workers"),
        ("apiendpoint_health_path", "api_endpoint_health_path"),
        ("api_enpoint_name", "api_endpoint_name"),
        ("api-endpoint-workers", "api_endpoint_workers"),
        ("API_ENDPOINT_WORKERS", "api_endpoint_workers"),
        # Somebody's own, or Ansible's.
        ("endpoint_workers", ""),
        ("my_api_endpoint_workers", ""),
        ("workers", ""),
        ("api_port", ""),
        ("app_dir", ""),
        ("ansible_port", ""),
        ("api_endpoint_workers", ""),
    ],
)
def test_a_name_whose_prefix_is_misspelt_is_refused_too(given, meant):
    known = sorted(SPECS)
    found = unknown_names(near_names([given], "api_endpoint_", known), known)
    assert len(found) == bool(meant), found
    assert all(f"{given} is set" in one and f"Did you mean {meant}?" in one for one in found)


def test_a_run_checks_the_argument_spec_before_anything_else():
    """Ansible puts that before the role's tasks; a tag does not skip it."""
    variables = variables_of("localhost,")
    play = Play.load({"hosts": "all", "roles": ["api_endpoint"]}, variables, variables._loader)
    first = play.roles[0].get_task_blocks()[0].block[0]
    assert first.action.endswith("validate_argument_spec")
    assert "always" in first.tags


@pytest.mark.parametrize(
    ("tags", "is_partial"),
    [
        (["all"], False),
        (["app"], True),
        (["model"], True),
        (["nginx"], True),
        (["app", "setup"], False),
    ],
)
def test_a_part_is_a_run_with_tags_but_without_setup(tags, is_partial):
    play = {"hosts": "all", "vars_files": [str(ROLE / "vars" / "main.yml")]}
    expression = trust_as_template("{{ __api_endpoint_is_partial_run }}")
    assert templar(play, ansible_run_tags=tags).template(expression) is is_partial


def test_every_number_of_the_role_has_a_range():
    numbers = {name for name, option in SPECS.items() if option["type"] == "int"}
    assert numbers == set(RANGES)
    for name, (least, most, _) in RANGES.items():
        assert least <= good()[name] <= most


def test_the_projects_folder_is_found_from_its_playbooks():
    assert Path(PROJECT, "playbooks", "group_vars", "api_endpoints.yml").exists()
