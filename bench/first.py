"""The time of a first deployment, as a ratio to that of the old template's setup script, each on an instance of its own.

Run by `make bench`. BENCH_REPEATS is the number of rounds (default 5).
"""

from __future__ import annotations

import os
import shlex
import time

from figures import Figure, keep
from host import CONTAINER, OLD_GUNICORN, OLD_NGINX, PROJECT, QUESTION, address, inside, run

# What that script did, in its order, but for the clone of the repository.
OLD_SETUP = """
export DEBIAN_FRONTEND=noninteractive
apt-get update
for package in build-essential nginx python3-pip python3-wheel python3-venv python3-dev; do
    apt-get install --yes $package
done
python3 -m venv /var/lib/old/p3env
/var/lib/old/p3env/bin/pip install wheel
/var/lib/old/p3env/bin/pip install gunicorn
/var/lib/old/p3env/bin/pip install --requirement /etc/old/requirements.txt
chown --recursive www-data:www-data /etc/old /var/lib/old
install --directory --owner www-data /var/log/gunicorn
echo "$NGINX" >/etc/nginx/conf.d/old.conf
echo "$GUNICORN" >/etc/old/gunicorn.conf.py
systemd-run --property=User=www-data --property=RuntimeDirectory=old --unit=old --working-directory=/etc/old \\
    /var/lib/old/p3env/bin/gunicorn --config /etc/old/gunicorn.conf.py
systemctl restart nginx
"""


def new_instance() -> None:
    """Replace the demo's instance by one on which nothing was deployed."""
    run("tools/demo.sh", "down")
    run("tools/demo.sh", "dry-run")


def as_before() -> float:
    """Return the seconds that the example app takes to be set up as the old template did."""
    new_instance()
    run("docker", "cp", "--quiet", str(PROJECT / "app"), f"{CONTAINER}:/etc/old")
    gunicorn = OLD_GUNICORN.replace("bench_wsgi", "wsgi")
    begun = time.monotonic()
    inside(f"NGINX={shlex.quote(OLD_NGINX)}; GUNICORN={shlex.quote(gunicorn)}\n{OLD_SETUP}")
    taken = time.monotonic() - begun
    run(
        "curl",
        "--silent",
        "--fail",
        *("--retry", "20", "--retry-delay", "1", "--retry-all-errors"),
        f"http://{address()}:81{QUESTION}",
    )
    return taken


def as_now() -> float:
    """Return the seconds that it takes to be deployed, over SSH."""
    new_instance()
    begun = time.monotonic()
    run("ansible-playbook", "-i", "tools/demo.yml", "site.yml")
    return time.monotonic() - begun


def main() -> None:
    """Measure, and keep the figure."""
    ratios = []
    for _ in range(int(os.environ.get("BENCH_REPEATS", 5))):
        before = as_before()
        ratios.append(as_now() / before)
    what = "a clean host to a live API, against the old template's setup script"
    keep([Figure("First deployment", what, ratios, goal=0.6, more_is_better=False)])


if __name__ == "__main__":
    main()
