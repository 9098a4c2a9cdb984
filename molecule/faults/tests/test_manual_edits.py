"""The next run repairs what somebody broke by hand."""

import pytest
from faults import fault
from outcomes import ROOT, wait_until

DATA, SOCKETS, LOGS = "/srv/api-endpoint/data", "/run/api-endpoint", "/var/log/gunicorn"
SITE = "/etc/nginx/sites-available/api-endpoint"
ENABLED = "/etc/nginx/sites-enabled/api-endpoint"

EVERYWHERE = f"{ROOT} {DATA} {SOCKETS} {LOGS} /etc/api-endpoint"
BROKEN = {
    "chmod -R go=": f"chmod -R go= {EVERYWHERE} && chmod go= /var/log/nginx",
    "chmod -R a+rwX": f"chmod -R a+rwX {EVERYWHERE} /var/log/nginx",
    "chown -R nobody": f"chown -R nobody:nogroup {EVERYWHERE} && chown nobody:nogroup /var/log/nginx",
    "chown -R www-data": f"chown -R www-data:www-data {EVERYWHERE}",
}


def rights(api) -> dict[str, tuple[str, int]]:
    """Owners and rights of all that the role has made. Links have no rights; a log's group is gunicorn's or logrotate's."""
    found = api.host.check_output(
        f"find {EVERYWHERE} /var/log/nginx -printf '%p %u:%g %y %m\\n' | grep -v 'nginx/' | grep -v __pycache__"
    )

    def one(path: str, owner: str, kind: str, mode: str) -> tuple[str, int]:
        if path.endswith(".log"):
            return owner.split(":")[0], int(mode, 8) & 0o707
        return owner, 0 if kind == "l" else int(mode, 8)

    return {line.split()[0]: one(*line.split()) for line in found.splitlines()}


@pytest.mark.parametrize(
    "how",
    [
        how if how == "chown -R nobody" else pytest.param(how, marks=pytest.mark.full)
        for how in BROKEN
    ],
)
def test_permissions(api, deploy, how):
    before = rights(api)
    with fault(api, f"{how}, and the next run", rate=10):
        api.host.check_output(BROKEN[how])
        assert rights(api) != before
        run = deploy()
    assert run.status == 0, run.output
    after = rights(api)
    amiss = {
        path: (owner, oct(mode), *after.get(path, ("gone", 0)))
        for path, (owner, mode) in before.items()
        if path in after and (after[path][0] != owner or after[path][1] & 0o750 != mode & 0o750)
    }
    assert not amiss
    # uv makes its locks for everybody, in a folder that nobody else can enter.
    assert not [
        path
        for path, (_owner, mode) in after.items()
        if mode & 0o002 and not (path.startswith(f"{ROOT}/uv/cache/") and path.endswith(".lock"))
    ]
    for path in (f"{ROOT}/current/wsgi.py", f"{DATA}/.endpoint", f"{LOGS}/access.log"):
        assert (
            api.host.run(
                f"setpriv --reuid nobody --regid nogroup --clear-groups head -c 1 {path}"
            ).rc
            != 0
        ), path
    # It serves, also when it starts anew, and logs.
    api.host.check_output(f"systemctl restart {api.unit}")
    api.wait_until_it_answers("/")
    api.host.check_output("systemctl kill --signal=USR1 --kill-whom=main nginx.service")
    for log in ("/var/log/nginx/access.log", f"{LOGS}/access.log"):
        wait_until(
            lambda log=log: (
                api.get("/mark-of-rights")
                and "mark-of-rights" in api.host.run(f"tail {log}").stdout
            ),
            log,
        )


def test_the_site_of_nginx_is_edited(api, deploy):
    host = api.host
    good = host.file(SITE).content_string
    host.check_output(
        f"sed -i 's/uwsgi_pass .*/return 200 edited;/' {SITE} && systemctl reload nginx"
    )
    wait_until(lambda: api.get("/").body == b"edited", "the edit holds")
    run = deploy("--tags", "nginx")
    assert run.status == 0, run.output
    assert api.get("/").json["status"] == "ready"
    assert host.file(SITE).content_string == good
    kept = host.file(f"{SITE}.edited-by-hand")
    assert "return 200 edited;" in kept.content_string
    assert f"{SITE}.edited-by-hand" in run.said, "nobody is told where the edit is"


def test_a_second_run_repairs_nothing(deploy):
    assert deploy().changed == [0]


@pytest.mark.full
def test_the_site_of_nginx_is_edited_so_that_nginx_does_not_start(api, deploy):
    host = api.host
    good = host.file(SITE).content_string
    with fault(api, "an edit with which nginx does not start, and the next run", rate=10):
        host.check_output(f"rm {ENABLED} && echo 'server {{ no such thing; }}' > {ENABLED}")
        host.run("systemctl restart nginx")
        run = deploy("--tags", "nginx")
    assert run.status == 0, run.output
    assert host.file(SITE).content_string == good
    assert host.file(ENABLED).is_symlink
    assert "no such thing" in host.check_output(
        f"cat {SITE}.edited-by-hand /etc/nginx/sites-available/*by-hand*"
    )
    assert host.run("nginx -t").rc == 0


@pytest.mark.full
@pytest.mark.parametrize("gone", [ENABLED, f"{SITE} {ENABLED}"])
def test_the_site_of_nginx_is_deleted(api, deploy, gone):
    host = api.host
    good = host.file(SITE).content_string
    with fault(api, f"rm {gone.replace('/etc/nginx/', '')}, and the next run", rate=10):
        host.check_output(f"rm {gone}")
        host.run("systemctl restart nginx")
        run = deploy("--tags", "nginx")
    assert run.status == 0, run.output
    assert host.file(SITE).content_string == good
    assert host.file(ENABLED).is_symlink
