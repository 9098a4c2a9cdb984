"""nginx's configuration is replaced as a whole or not at all."""

import hashlib
import os
import re
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.host import nginx
from helpers import Stub


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A configuration folder, and an nginx that rejects the word BROKEN anywhere in the configuration it is given."""
    folder = tmp_path / "nginx"
    (folder / "sites-enabled").mkdir(parents=True)
    (folder / "nginx.conf").write_text("# Debian's\n")
    (folder / "sites-enabled" / "default").symlink_to("../sites-available/default")
    program = tmp_path / "bin" / "nginx"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\nshift 3\nif grep -rq BROKEN "$(dirname "$1")"; then echo "unknown directive in $1" >&2; exit 1; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(nginx, "loaded_configuration", lambda _socket: runs.get("loaded", ""))
    monkeypatch.setattr(
        nginx, "systemctl", lambda *_: SimpleNamespace(returncode=int(runs.get("is") == "stopped"))
    )
    monkeypatch.setattr(nginx, "main_process", lambda _unit: 0)
    monkeypatch.setattr(nginx, "programs_on", lambda port: runs.get(port, []))
    monkeypatch.setattr(nginx, "RIGHTS", f"{os.getuid()}:{os.getgid()} 0644")
    runs.clear()
    return folder


runs: dict = {}  # what the running nginx has loaded; "is": whether it runs; the programs on a port


def name_of(folder):
    return re.search("return 200 (.+);", (folder / "api-endpoint/api.loaded").read_text())[1]


def load(folder):
    """As the handler does that reloads nginx."""
    runs["loaded"] = name_of(folder)


def stub(folder, check_mode=False, **files):
    wanted = {
        "nginx.conf": "# Managed by Ansible\n",
        "sites-available/api": "# Managed by Ansible\nserver\n",
        **files,
    }
    return Stub(
        check_mode, folder=str(folder), files=wanted, links={"sites-enabled/api": "../sites-available/api"},
        absent=["sites-enabled/default"], socket=str(folder.parent / "proof/api.sock"),
        loaded="api-endpoint/api.loaded", reload=False,
    )  # fmt: skip


def ensure(folder, check_mode=False, **files):
    return nginx.ensure(stub(folder, check_mode, **files))


def kept(folder):
    """What is kept, by the ends of the files' names."""
    found = (
        path
        for path in folder.rglob("*.*")
        if path.suffix in (".before-api-endpoint", ".edited-by-hand")
    )
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def test_files_links_and_removals_and_then_nothing(folder):
    result = ensure(folder)
    assert result["written"] == [
        "nginx.conf",
        "sites-available/api",
        "sites-enabled/api",
        "sites-enabled/default",
    ]
    assert (folder / "sites-enabled" / "api").read_text() == "# Managed by Ansible\nserver\n"
    assert not (folder / "sites-enabled" / "default").is_symlink()
    assert (folder / "nginx.conf.before-api-endpoint").read_text() == "# Debian's\n"
    load(folder)
    assert ensure(folder) == {"changed": False, "written": [], "pending": False, "diff": []}


@pytest.mark.parametrize("is_packages", [True, False])
def test_the_packages_own_file_is_kept_without_a_warning(folder, is_packages):
    """On a clean host nobody has written nginx.conf."""
    path = folder / "nginx.conf"
    digest = hashlib.md5(b"# Debian's\n" if is_packages else b"", usedforsecurity=False).hexdigest()
    program = folder.parent / "bin" / "dpkg-query"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = --search ]; then echo "nginx-common: {path}"; else echo " {path} {digest}"; fi\n'
    )
    program.chmod(0o755)
    module = stub(folder)
    nginx.ensure(module)
    assert kept(folder) == {"nginx.conf.before-api-endpoint": "# Debian's\n"}
    warning = f"{path} was not the role's own; it is kept as {path}.before-api-endpoint."
    assert module.warnings == ([] if is_packages else [warning])


def test_a_reload_that_was_never_done_is_still_a_change(folder):
    assert ensure(folder)["changed"]
    assert ensure(folder) == {"changed": True, "written": [], "pending": True, "diff": []}


def test_a_configuration_that_is_written_has_a_name_of_its_own(folder):
    ensure(folder)
    load(folder)
    first = runs["loaded"]
    ensure(folder)
    assert name_of(folder) == first
    ensure(folder, **{"sites-available/api": "# Managed by Ansible\nother\n"})
    assert name_of(folder) != first
    assert ensure(folder)["pending"], "the same content as before is loaded, under another name"
    assert kept(folder).keys() == {"nginx.conf.before-api-endpoint"}


def test_an_nginx_that_does_not_run_loads_it_when_it_is_started(folder):
    ensure(folder)
    runs["is"] = "stopped"
    assert ensure(folder)["pending"] is False


@pytest.mark.parametrize(
    ("others", "goes"),
    [
        ({}, True),
        ({"other": "    listen 8080;\n"}, False),
        ({"other": "listen [::]:8080;"}, False),
        ({"other": "    listen 10.0.0.1:8080 ssl;\n"}, False),
        ({"other": "    listen 80801;\n    # listen 8080;\n"}, True),
        ({"catch-all-8081": "listen 8080 default_server;"}, True),
    ],
)
def test_a_port_that_no_site_has_any_more_goes(folder, others, goes):
    for name, text in {"catch-all-8080": "listen 8080 default_server;", **others}.items():
        (folder / "sites-available").mkdir(exist_ok=True)
        (folder / "sites-available" / name).write_text(f"# Managed by Ansible\n{text}")
        (folder / "sites-enabled" / name).symlink_to(f"../sites-available/{name}")
    ensure(folder)
    assert ("catch-all-8080" in os.listdir(folder / "sites-enabled")) is not goes
    assert ("catch-all-8080" in os.listdir(folder / "sites-available")) is not goes
    assert "other" not in others or "other" in os.listdir(folder / "sites-enabled")


@pytest.mark.parametrize(
    "listen", ["listen 8080;", "    listen [::]:8080;", "listen 8080 default_server;"]
)
@pytest.mark.parametrize("check_mode", [True, False])
def test_a_port_that_another_program_has_is_refused_before_anything_is_written(
    folder, listen, check_mode
):
    """With it on the disk, nginx would not start again."""
    site = {"sites-available/api": f"# Managed by Ansible\nserver {{\n{listen}\n}}\n"}
    runs[8080] = ["nginx (process 1)", "python3 (process 2)"]
    with pytest.raises(
        DeployError,
        match=r"Port 8080 is taken by python3 \(process 2\), so nginx was left as it is",
    ):
        ensure(folder, check_mode, **site)
    assert (folder / "nginx.conf").read_text() == "# Debian's\n"
    assert not (folder / "sites-available" / "api").exists()
    runs[8080] = ["nginx (process 1)"]
    assert ensure(folder, check_mode, **site)["changed"]


def test_our_own_older_file_is_not_kept(folder):
    ensure(folder)
    ensure(folder, **{"sites-available/api": "# Managed by Ansible\nother\n"})
    assert not (folder / "sites-available" / "api.before-api-endpoint").exists()


def test_an_edit_by_hand_is_kept_and_somebody_is_told(folder):
    ensure(folder)
    site = folder / "sites-available" / "api"
    for edit in ("first", "second"):
        site.write_text(f"# Managed by Ansible\nserver\n# {edit}\n")
        module = stub(folder)
        assert nginx.ensure(module)["written"] == ["sites-available/api"]
        assert site.read_text() == "# Managed by Ansible\nserver\n"
        assert kept(folder)["sites-available/api.edited-by-hand"].endswith(f"{edit}\n")
        assert module.warnings == [
            f"{site} was not the role's own; it is kept as {site}.edited-by-hand."
        ]
    ensure(folder, **{"sites-available/api": "# Managed by Ansible\nnewer\n"})
    assert kept(folder)["sites-available/api.edited-by-hand"].endswith("second\n"), (
        "our own file is no edit"
    )


def test_a_file_in_place_of_a_link_is_kept_where_nginx_does_not_read_it(folder):
    """nginx reads all of sites-enabled, whatever the names."""
    (folder / "sites-enabled" / "default").unlink()
    (folder / "sites-enabled" / "default").write_text("# Debian's\n")
    ensure(folder)
    (folder / "sites-enabled" / "api").unlink()
    (folder / "sites-enabled" / "api").write_text("# mine\n")
    ensure(folder)
    assert os.listdir(folder / "sites-enabled") == ["api"]
    assert (folder / "sites-enabled" / "api").is_symlink()
    assert kept(folder) == {
        "nginx.conf.before-api-endpoint": "# Debian's\n",
        "sites-available/default.before-api-endpoint": "# Debian's\n",
        "sites-available/api.edited-by-hand": "# mine\n",
    }


def test_what_is_gone_is_written_again(folder):
    ensure(folder)
    (folder / "sites-available" / "api").unlink()
    (folder / "sites-enabled" / "api").unlink()
    assert ensure(folder)["written"] == ["sites-available/api", "sites-enabled/api"]
    assert (folder / "sites-enabled" / "api").read_text() == "# Managed by Ansible\nserver\n"
    assert list(kept(folder)) == ["nginx.conf.before-api-endpoint"]


@pytest.mark.parametrize("mode", [0o666, 0o640, 0o4644])
def test_rights_that_somebody_changed_are_repaired(folder, mode):
    """Who can write nginx.conf is root at the next reload."""
    ensure(folder)
    load(folder)
    (folder / "nginx.conf").chmod(mode)
    result = ensure(folder, check_mode=True)
    assert result["written"] == ["nginx.conf"]
    assert f" {mode:04o}" in result["diff"][0]["before"]
    assert result["diff"][0]["after"] == nginx.RIGHTS
    assert ensure(folder)["written"] == ["nginx.conf"]
    assert (folder / "nginx.conf").stat().st_mode & 0o7777 == 0o644
    load(folder)
    assert not ensure(folder)["changed"]
    assert list(kept(folder)) == ["nginx.conf.before-api-endpoint"]


def test_a_folder_in_place_of_a_file_is_named(folder):
    (folder / "sites-available" / "api").mkdir(parents=True)
    with pytest.raises(DeployError, match=r"sites-available/api is a folder.*move away"):
        ensure(folder)
    assert (folder / "nginx.conf").read_text() == "# Debian's\n"


def test_files_of_a_role_that_noted_nothing(folder):
    ensure(folder)
    (folder / ".api-endpoint.json").unlink()
    ensure(folder, **{"sites-available/api": "# Managed by Ansible\nother\n"})
    assert list(kept(folder)) == ["nginx.conf.before-api-endpoint"]
    (folder / "sites-available" / "api").write_text("# Managed by Ansible\nedited\n")
    ensure(folder)
    assert "sites-available/api.edited-by-hand" in kept(folder)


@pytest.mark.parametrize("check_mode", [True, False])
def test_judging_makes_no_folder_for_a_cache(folder, check_mode):
    """`nginx -t` makes it, below a folder that must be there: on a host that was set up without one a dry run would fail."""
    program = folder.parent / "bin" / "nginx"
    program.write_text(
        "#!/bin/sh\nmkdir $(sed -n 's/^proxy_cache_path \\([^ ]*\\).*/\\1/p' $(dirname $4)/sites-enabled/*)\n"
    )
    site = f"# Managed by Ansible\nproxy_cache_path {folder.parent}/run/api levels=1:2\n    inactive=60s;\n"
    ensure(folder, check_mode, **{"sites-available/api": site})
    assert not (folder.parent / "run").exists()
    assert check_mode or (folder / "sites-available" / "api").read_text() == site


@pytest.mark.parametrize("check_mode", [True, False])
def test_judging_leaves_the_account_of_the_workers_that_run(folder, check_mode):
    """`nginx -t` gives folders to the account; in a dry run on a host that others have set up it is not even made."""
    (folder / "nginx.conf").write_text("# Debian's\nuser www-data;\n")
    program = folder.parent / "bin" / "nginx"
    program.write_text("#!/bin/sh\ngrep --quiet '^user www-data;$' $4\n")
    ours = "# Managed by Ansible\nuser nginx;\n"
    assert ensure(folder, check_mode, **{"nginx.conf": ours})["changed"]
    assert check_mode or (folder / "nginx.conf").read_text() == ours


def test_what_nginx_rejects_never_reaches_the_folder(folder):
    before = sorted(os.listdir(folder))
    with pytest.raises(
        DeployError, match=rf"nginx rejects the new configuration.*\n.*in {folder}/nginx.conf"
    ):
        ensure(folder, **{"sites-available/api": "BROKEN"})
    assert sorted(os.listdir(folder)) == before
    assert (folder / "nginx.conf").read_text() == "# Debian's\n"


def test_check_mode_judges_and_writes_nothing(folder):
    assert ensure(folder, check_mode=True)["changed"]
    assert (folder / "nginx.conf").read_text() == "# Debian's\n"
    with pytest.raises(DeployError):
        ensure(folder, check_mode=True, **{"sites-available/api": "BROKEN"})


def test_check_mode_on_a_clean_host(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert ensure(tmp_path / "nginx", check_mode=True)["changed"]
