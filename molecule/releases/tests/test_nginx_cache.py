"""The cache on a host: its memory is nginx's alone, a release empties it, and it goes when it is turned off.

Which answers nginx keeps, and for whom: tests/component/test_cache.py.
"""

import pytest
from outcomes import ROOT

FOLDER = "/run/nginx-cache"
MOUNT = f"{FOLDER}/api-endpoint"
UNIT = r"run-nginx\x2dcache-api\x2dendpoint.mount"
URLS = [f"/?kept={number}" for number in range(20)]


@pytest.fixture(scope="module", autouse=True)
def cached(api, deploy):
    """Turn the cache on while the app runs; the last test turns it off again."""
    run = deploy(deploy.last, "--tags", "nginx", cache={"ttl": 600, "size": "8m"})
    assert run.status == 0, run.output
    yield
    if api.host.run(f"test -e {MOUNT}").rc == 0:
        deploy(deploy.last, "--tags", "nginx")


def answers(api):
    """Return the releases that answer the URLs, and where nginx has the answers from."""
    given = [api.get(url) for url in URLS]
    assert {answer.status for answer in given} == {200}
    return {answer.json["release"] for answer in given}, {
        answer.all("Cache-Status")[0] for answer in given
    }


def test_it_is_in_memory_and_nginxs_alone(api):
    answers(api)
    mount = api.host.check_output(
        f"findmnt --noheadings --output FSTYPE,OPTIONS --mountpoint {MOUNT}"
    ).split()
    assert mount[0] == "tmpfs"
    assert {"nosuid", "nodev", "noexec"} < set(mount[1].split(","))
    # Twice what is kept, and 16 MB.
    assert api.host.check_output(f"df --output=size --block-size=1M {MOUNT}").split()[-1] == "32"
    assert api.host.check_output(f"stat --format '%U %a' {FOLDER} {MOUNT}").split() == [
        "root", "755", "nginx", "700",
    ]  # fmt: skip
    kept = api.host.check_output(f"find {FOLDER} -type f").split()
    assert len(kept) >= len(URLS)
    assert set(api.host.check_output(f"stat --format '%U %a' {' '.join(kept)}").splitlines()) == {
        "nginx 600"
    }
    assert api.host.run(f"setpriv --reuid nobody --clear-groups cat {kept[0]}").rc != 0
    assert api.host.run(f"setpriv --reuid nginx --clear-groups cat {kept[0]}").rc == 0
    assert api.host.run(f"setpriv --reuid www-data --clear-groups cat {kept[0]}").rc != 0
    # The app was running already when the cache came.
    assert api.as_service(f"ls {ROOT}/current/").rc == 0
    assert api.as_service(f"ls {FOLDER}").rc != 0
    assert api.as_service(f"cat {kept[0]}").rc != 0
    api.host.check_output(f"systemctl stop '{UNIT}' && systemctl restart nginx")
    api.wait_until_it_answers("/")
    assert api.host.run(f"systemctl is-active '{UNIT}'").stdout.strip() == "active", (
        "nginx brings it"
    )
    assert api.as_service(f"ls {FOLDER}").rc != 0


def test_a_release_does_not_answer_from_the_cache_of_the_last_one(api, deploy, new_app):
    first = api.release
    answers(api)
    assert answers(api) == ({first}, {"nginx; hit"})
    run = deploy(new_app("kept"), "--tags", "app", strategy="restart")
    assert run.status == 0, run.output
    assert api.release != first
    assert answers(api) == ({api.release}, {"nginx; fwd=uri-miss"})
    assert answers(api) == ({api.release}, {"nginx; hit"})


@pytest.mark.full
def test_a_rollback_answers_from_the_cache_of_its_own_release_alone(api, deploy):
    last = api.release
    run = deploy.back()
    assert run.status == 0, run.output
    assert api.release != last
    assert answers(api)[0] == {api.release}


def test_turning_it_off_frees_the_memory(api, deploy):
    run = deploy(deploy.last, "--tags", "nginx")
    assert run.status == 0, run.output
    assert api.get(URLS[0]).all("Cache-Status") == []
    assert api.host.run(f"find {FOLDER} -mindepth 1").stdout == ""
    assert api.host.run(f"findmnt --mountpoint {MOUNT}").rc != 0
    assert api.host.run(f"systemctl cat '{UNIT}'").rc != 0
