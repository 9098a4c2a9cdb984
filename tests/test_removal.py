"""An endpoint goes with all that is its own, and with nothing else; what stays is named."""

import os
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.host import nginx, nginx_removal, removal
from helpers import PROJECT
from rendering import render, templar

NAME = "no-such-endpoint"  # of this computer, whose /etc, /srv and /run are looked at too
CONF = "# Managed by Ansible (role api_endpoint). For all sites of this host\nuser nginx;\n"
DEBIAN = "user www-data;\n"
SITE = "server {\n    listen 80;\n}\n"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with an endpoint: its folders below a temporary one, systemd and the accounts by word of mouth."""
    found = SimpleNamespace(
        calls=[], accounts={NAME, "nginx"}, members={("nginx", NAME)}, rejects=""
    )
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(removal, "UNITS", tmp_path / "units")

    def systemctl(*arguments):
        found.calls.append(" ".join(arguments))
        return SimpleNamespace(
            returncode=0, stdout="ActiveState=active\nUnitFileState=enabled\n", stderr=""
        )

    def judge(_folder, wanted, _links):
        if found.rejects and found.rejects in str(wanted):
            raise DeployError("nginx rejects it")

    for module in (removal, nginx_removal, nginx):
        monkeypatch.setattr(module, "systemctl", systemctl)
    monkeypatch.setattr(nginx, "main_process", lambda _unit: 0)
    monkeypatch.setattr(removal, "must", systemctl)
    monkeypatch.setattr(nginx_removal, "judge", judge)
    monkeypatch.setattr(nginx_removal.shutil, "which", lambda _name: "/usr/sbin/nginx")
    monkeypatch.setattr(nginx_removal, "loaded_configuration", lambda _socket: "")
    monkeypatch.setattr(removal.accounts, "is_own", found.accounts.__contains__)
    monkeypatch.setattr(removal.accounts, "is_member", lambda *pair: pair in found.members)
    monkeypatch.setattr(removal.accounts, "remove", found.accounts.remove)
    monkeypatch.setattr(removal.accounts, "leave", lambda *pair: found.members.remove(pair))
    monkeypatch.setattr(
        removal.Removal, "_hand_over", lambda _self, user, *_: found.accounts.remove(user)
    )
    found.root = tmp_path
    deploy(tmp_path, NAME)
    return found


def deploy(folder, name, note=True):
    """Make what an endpoint has on the disk."""
    unit = render(
        "api-endpoint@.service.j2", api_endpoint_name=name, api_endpoint_server_names=["a.example"]
    )
    write(folder / f"units/{name}@.service", unit.replace("/var/lib/", f"{folder}/lib/"))
    for path in (
        "code/x/app/wsgi.py",
        "venvs/x/bin/python",
        "releases/1/release.json",
        "state/home/.cache",
    ):
        write(folder / f"lib/{name}/{path}", "x" * 2000)
    (folder / f"lib/{name}/state/app").mkdir()
    (folder / f"lib/{name}/live").symlink_to("slots/blue")
    write(folder / f"srv/{name}/data/.endpoint", f"{name}\n")
    write(folder / f"srv/{name}/data/{'0' * 64}/artifact", "model")
    write(folder / f"log/{name}/deploys.log", "a line")
    write(folder / f"units/{name}-waiting.socket", "")
    for path, text in {
        "nginx.conf": CONF,
        "nginx.conf.before-api-endpoint": DEBIAN,
        f"sites-available/{name}": SITE,
        f"sites-enabled/{name}": SITE,
        "sites-available/catch-all-80": SITE,
        "sites-enabled/catch-all-80": SITE,
        ".api-endpoint.json": '{"put away: sites-enabled/default": "/etc/nginx/sites-available/default"}',
    }.items():
        write(folder / "nginx" / path, text)
    write(folder / "shared/30-nginx-private.conf", "redaction")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def given(folder, **more):
    return {
        "name": NAME, "root": f"{folder}/lib/{NAME}", "data_dir": f"{folder}/srv/{NAME}/data", "user": NAME,
        "nginx_user": "nginx", "units": [f"{NAME}@blue.service"], "files": [f"{folder}/units/{NAME}-waiting.socket"],
        "folders": [f"{folder}/log/{NAME}"], "firewall_rules": f"{folder}/nft/{NAME}.nft",
        "nginx": [f"sites-enabled/{NAME}", f"sites-available/{NAME}"], "nginx_folder": f"{folder}/nginx",
        "shared": [f"{folder}/shared/30-nginx-private.conf"], "shared_folders": [], "rotation": f"{folder}/rotation",
        "has_balancers": False, "remove_data": False, **more,
    }  # fmt: skip


def remove(host, dry=False, **more):
    one = removal.Removal(given(host.root, **more), dry)
    one.check()
    return one.run()


def left(folder):
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    )


def test_nothing_with_its_name_is_left_and_a_second_run_changes_nothing(host):
    remove(host)
    assert left(host.root) == ["nginx/nginx.conf", "nginx/sites-enabled/default"]
    assert (host.root / "nginx/nginx.conf").read_text() == DEBIAN
    assert (
        os.readlink(host.root / "nginx/sites-enabled/default")
        == "/etc/nginx/sites-available/default"
    )
    assert not [
        path for path in host.root.rglob("*") if NAME in path.name and path.parent.name != "srv"
    ]
    assert host.accounts == host.members == set()
    assert {
        f"stop {NAME}@blue.service",
        f"disable {NAME}@blue.service",
        "reload nginx.service",
    } <= set(host.calls)
    again = remove(host)
    assert again["removed"] == []


def test_a_dry_run_lists_the_same_and_touches_nothing(host):
    before = left(host.root)
    would = remove(host, dry=True)
    assert left(host.root) == before
    assert not {call.split()[0] for call in host.calls} - {"show"}
    assert sorted(path for path, _size in would["removed"]) == sorted(
        path for path, _size in remove(host)["removed"]
    )
    text = removal.text_of(NAME, would["removed"], would["kept"], is_dry_run=True)
    assert f"{host.root}/lib/{NAME} " in text
    assert "8.0 kB" in text
    assert "venvs" not in text  # it is in the folder's line


def test_another_endpoint_of_the_host_keeps_all_that_it_needs(host):
    deploy(host.root, "another")
    others = [path for path in left(host.root) if NAME not in path]
    remove(host)
    assert left(host.root) == others
    assert (host.root / "nginx/nginx.conf").read_text() == CONF
    assert host.accounts == {"nginx"}


@pytest.mark.parametrize(
    ("make", "more", "words", "stays"),
    [
        ("lib/{}/state/app/db/db", {}, "what the app has written", "lib/{}/state/app/db/db"),
        ("lib/{}/notes.txt", {}, "not the role's (notes.txt)", "lib/{}/notes.txt"),
        ("srv/{}/data/mine.csv", {}, "not this endpoint's model data (mine.csv)", "srv/{}/data/mine.csv"),
        ("nginx/sites-available/{}.edited-by-hand", {}, "an edit by hand", "nginx/sites-available/{}.edited-by-hand"),
    ],
)  # fmt: skip
def test_what_stays_is_named(host, make, more, words, stays):
    write(host.root / make.format(NAME), "mine")
    found = remove(host, **more)
    assert [line for line in found["kept"] if words in line], found["kept"]
    assert stays.format(NAME) in left(host.root)
    # An account is not removed while files are its own, which would be another one's some day.
    assert (NAME in host.accounts) == ("state" in make)


def test_what_the_app_has_written_goes_when_that_is_wanted_also_later(host):
    write(host.root / f"lib/{NAME}/state/app/db/db", "mine")
    remove(host)
    assert NAME in host.accounts
    remove(host, remove_data=True)
    assert not (host.root / "lib" / NAME).exists()
    assert NAME not in host.accounts


@pytest.mark.parametrize(("name", "value"), [("root", "/home/me"), ("user", "me")])
def test_a_folder_or_an_account_that_is_not_the_endpoints_is_refused(host, name, value):
    before = left(host.root)
    with pytest.raises(DeployError, match=f"Nothing was touched. api_endpoint_{name} is '{value}'"):
        remove(host, **{name: value})
    assert left(host.root) == before


def test_without_its_unit_nothing_says_that_a_folder_is_the_endpoints(host):
    (host.root / f"units/{NAME}@.service").unlink()
    found = remove(host)
    assert (host.root / f"lib/{NAME}/code/x/app/wsgi.py").exists()
    assert [line for line in found["kept"] if "not the role's (code" in line]


def test_data_on_a_volume_stays(host, monkeypatch):
    monkeypatch.setattr(removal, "mount_of", lambda path: path.parent)
    found = remove(host)
    assert [line for line in found["kept"] if "on the volume at" in line and "/etc/fstab" in line]
    assert (host.root / f"srv/{NAME}/data/{'0' * 64}/artifact").exists()


@pytest.mark.parametrize(
    ("has_balancers", "rejects", "kept_copy", "conf", "has_default"),
    [
        (False, "", True, DEBIAN, True),
        # Its page would pass for a healthy endpoint.
        (True, "", True, DEBIAN, False),
        # A site of somebody else that needs the role's configuration.
        (False, "www-data", True, CONF, False),
        (False, "", False, CONF, False),
    ],
)
def test_nginx_gets_back_what_it_had_before_the_role(
    host, has_balancers, rejects, kept_copy, conf, has_default
):
    host.rejects = rejects
    if not kept_copy:
        (host.root / "nginx/nginx.conf.before-api-endpoint").unlink()
    found = remove(host, has_balancers=has_balancers)
    assert (host.root / "nginx/nginx.conf").read_text() == conf
    assert (host.root / "nginx/sites-enabled/default").is_symlink() == has_default
    # The redaction stays with the configuration that needs it.
    assert (host.root / "shared/30-nginx-private.conf").exists() == (conf == CONF)
    assert bool([line for line in found["kept"] if "redaction" in line]) == (conf == CONF)
    assert ("nginx" in host.accounts) == (conf == CONF)


def test_nginx_that_rejects_it_keeps_all(host):
    deploy(host.root, "another")
    host.rejects = f"sites-enabled/{NAME}"
    before = left(host.root)
    with pytest.raises(DeployError, match="nginx rejects it"):
        remove(host)
    assert left(host.root) == before


def test_all_that_the_role_makes_for_an_endpoint_is_on_the_list():
    """Wherever the role's own lists have a path of this endpoint's, the removal has it, or a folder above it."""
    play = {
        "hosts": "all",
        "vars_files": [
            str(PROJECT / f"roles/api_endpoint/{kind}/main.yml") for kind in ("defaults", "vars")
        ],
    }
    registered = {"__api_endpoint_preflight": {"old": {"unit": "", "sites": []}}}
    values = templar(
        play,
        api_endpoint_name=NAME,
        api_endpoint_server_names=["a.example"],
        api_endpoint_cache={"size": "64m"},
        **registered,
    )
    values.available_variables = {
        **values.available_variables,
        "ansible_search_path": [str(PROJECT / "roles/api_endpoint")],
    }
    from ansible.template import trust_as_template

    def value(text):
        return values.template(trust_as_template(text))

    lists = value("{{ __api_endpoint_removal }}")
    root = f"/var/lib/{NAME}"
    made = [folder["path"] for folder in value("{{ __api_endpoint_rights }}")["folders"]]
    trees = [tree["paths"] for tree in value("{{ __api_endpoint_rights }}")["trees"]]
    made += [path for paths in trees for path in ([paths] if isinstance(paths, str) else paths)]
    made += value("{{ __api_endpoint_unit_files.keys() | list }}")
    made += [
        f"/etc/nginx/{name}" for name in value("{{ __api_endpoint_nginx_files.keys() | list }}")
    ]
    made += [
        f"/etc/nginx/{name}" for name in value("{{ __api_endpoint_nginx_links.keys() | list }}")
    ]
    listed = [
        *lists["files"], *lists["folders"], *lists["shared"], *lists["shared_folders"],
        *(f"/etc/nginx/{name}" for name in lists["nginx"]), *(f"{root}/{name}" for name in removal.CONTENT),
        f"{root}/state", f"/srv/{NAME}", f"/etc/{NAME}", f"/etc/systemd/system/{NAME}@.service",
    ]  # fmt: skip
    own = [path for path in made if NAME in path and path != root]
    assert len(own) > 25
    for path in own:
        assert any(path == known or path.startswith(f"{known}/") for known in listed), path
    assert set(lists["units"]) >= {
        f"{NAME}@blue.service",
        f"{NAME}@green.service",
        f"{NAME}-waiting.socket",
    }
