"""Writes a clone of the old template from a description: app, settings and set-up script.

    python old_clone.py molecule/migrate/clone.yml FOLDER

The texts are this project's own. They do what such scripts do, in the same order. A description is
YAML with the fields of OldClone below `clone`: the changes that one owner made.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

SETUP = """\
#!/usr/bin/env bash
# set up an instance

APP_LBL='@label@'
REPO_LBL='@checkout@'
GIT_CLONE_HTTPS='@url@'  # for `git clone`
GIT_BRANCH='@branch@'
@variables@

ETC_PATH="/etc/${APP_LBL}"  # app config info
SRV_PATH="/srv/${APP_LBL}"
TMP_PATH="/tmp/${APP_LBL}"
LOG_PATH="/var/log/gunicorn"
LIB_PATH="/var/lib/${APP_LBL}"

apt-get update
apt-get install -y nginx  # handles incoming requests
apt-get install -y --no-install-recommends python3-pip python3-wheel
apt-get install -y python3-venv git wget
@apt@
rm -rf ${TMP_PATH} ${SRV_PATH} ${ETC_PATH} ${LOG_PATH} ${LIB_PATH}
mkdir -p ${TMP_PATH}
mkdir -p ${SRV_PATH}/sock
mkdir -p ${ETC_PATH}/resources
mkdir -p ${LOG_PATH} ${LIB_PATH}
python3 -m venv ${LIB_PATH}/p3env
source ${LIB_PATH}/p3env/bin/activate
git clone --branch ${GIT_BRANCH} ${GIT_CLONE_HTTPS} ${TMP_PATH}/${REPO_LBL}
pip install wheel
@server@
pip install -r ${TMP_PATH}/${REPO_LBL}/requirements.txt
@steps@

echo "Setting up ownership..."
chown -R www-data:www-data ${ETC_PATH} ${SRV_PATH} ${LOG_PATH} ${LIB_PATH}
@settings@
@code@
cp ${TMP_PATH}/${REPO_LBL}/@folder@config/model.service /etc/systemd/system/
cp ${TMP_PATH}/${REPO_LBL}/@folder@config/model.nginx /etc/nginx/sites-available/model
if [[ -f "/etc/nginx/sites-enabled/model" ]]; then
    unlink /etc/nginx/sites-enabled/model
fi
ln -s /etc/nginx/sites-available/model /etc/nginx/sites-enabled/
@before_start@
systemctl enable model.service
systemctl daemon-reload
systemctl restart model.service
systemctl restart nginx
"""

CODE = """\
cp ${TMP_PATH}/${REPO_LBL}/@folder@wsgi.py ${ETC_PATH}
cp ${TMP_PATH}/${REPO_LBL}/@folder@flask_config.yaml ${ETC_PATH}
"""

WORKERS = """\
workers = (multiprocessing.cpu_count() * 2) + 1
timeout = 30
preload_app = True
"""

GUNICORN = """\
import multiprocessing

chdir = '/etc/@label@/'
wsgi_app = 'wsgi:app'
bind = 'unix:/srv/@label@/sock/model.sock'
umask = 7
@gunicorn@
accesslog = '/var/log/gunicorn/access.log'
errorlog = '/var/log/gunicorn/error.log'
loglevel = 'info'
access_log_format = '%(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(M)s"'
"""

SERVICE = """\
[Unit]
Description=Research API service
After=syslog.target

[Service]
ExecStart=@command@
User=www-data
Group=www-data
Restart=always
StandardError=syslog
NotifyAccess=all
KillSignal=SIGTERM
@service@

[Install]
WantedBy=multi-user.target
"""

NGINX = """\
log_format private '[$time_local] "$request" $status $body_bytes_sent "$http_referer"';

server {
    listen 80;
    server_name @server_names@;
    access_log /var/log/nginx/access.log private;
@nginx@

    location / {
        @pass_to@:/srv/@label@/sock/model.sock;
    }
}
"""

APP = """\
import os

from flask import Flask, jsonify, request
from flask_cors import CORS

app = Flask(__name__)
cors = CORS(app, resources={r'/api/*': {'origins': '*'}})
__dir__ = os.path.dirname(__file__)


@app.route('/api/v1/topic', methods=['GET'])
def topic():
    return jsonify(topic=request.args.get('title'))
@app@
"""


@dataclass(frozen=True)
class OldClone:
    """One owner's clone; fields that are lines end with a newline."""

    url: str = "https://git.example.org/me/topics.git"  # of the repository, in the script
    branch: str = "main"
    label: str = "api-endpoint"  # names the folders on the host
    checkout: str = "repo"  # names the folder of the code while the script runs
    folder: str = "model/"  # of the app in the repository; empty for a flat one
    # Lines of the set-up script
    variables: str = ""
    apt: str = ""
    steps: str = ""  # after the requirements: more packages, the data
    copied: str = CODE
    before_start: str = ""  # when all is in place
    # The server of the app
    installed: str = "gunicorn"  # as pip calls it
    gunicorn: str = WORKERS
    uwsgi: str = ""  # lines of its settings: uWSGI runs the app, and gunicorn does not
    options: str = ""  # of the command line
    service: str = ""  # lines of the unit
    server_names: str = "topics.wmcloud.org"
    nginx: str = ""  # lines of the site
    # The app
    app: str = ""  # lines of wsgi.py
    requirements: str = "Flask\nFlask-Cors\nPyYAML\n"
    files: dict[str, str] = field(default_factory=dict)  # more of them, by their path

    @property
    def code(self) -> str:
        """The lines of the script that copy the app."""
        return self.text(self.copied)

    @property
    def settings(self) -> str:
        """The line of the script that copies the settings of gunicorn."""
        path = f"${{TMP_PATH}}/${{REPO_LBL}}/{self.folder}config/gunicorn.conf.py"
        return "" if self.uwsgi else f"cp {path} ${{ETC_PATH}}\n"

    @property
    def server(self) -> str:
        """The line of the script that installs the server."""
        return "" if self.uwsgi else f"pip install {self.installed}\n"

    @property
    def command(self) -> str:
        """The command of the unit."""
        if self.uwsgi:
            return f"/usr/bin/uwsgi --ini /etc/{self.label}/uwsgi.ini"
        program = f"/var/lib/{self.label}/p3env/bin/gunicorn"
        return f"{program} --config /etc/{self.label}/gunicorn.conf.py{self.options}"

    @property
    def pass_to(self) -> str:
        """The directive of the site that names the socket, but for its path."""
        if self.uwsgi:
            return "include uwsgi_params;\n        uwsgi_pass unix"
        return "include proxy_params;\n        proxy_pass http://unix"

    def text(self, template: str) -> str:
        """Fill the fields in: lines in the place of `@name@` on a line of its own, else a word."""
        placeholder = re.compile(r"^@(\w+)@\n|@(\w+)@", re.MULTILINE)
        return placeholder.sub(lambda found: getattr(self, found[1] or found[2]), template)

    def write(self, folder: Path, cloned_from: str = "") -> Path:
        """Write the repository into a folder; with a URL, as a clone from there."""
        config = f"{self.folder}config"
        settings = (
            {"uwsgi.ini": self.uwsgi} if self.uwsgi else {"gunicorn.conf.py": self.text(GUNICORN)}
        )
        files = {
            "requirements.txt": self.requirements,
            f"{self.folder}wsgi.py": self.text(APP),
            f"{self.folder}flask_config.yaml": f'CUSTOM_UA: "{self.label} -- somebody@example.org"\n',
            f"{config}/cloudvps_setup.sh": self.text(SETUP),
            f"{config}/model.service": self.text(SERVICE),
            f"{config}/model.nginx": self.text(NGINX),
            **{f"{config}/{name}": text for name, text in settings.items()},
            **self.files,
        }
        if cloned_from:
            files[".git/HEAD"] = "ref: refs/heads/main\n"
            remote = f'[remote "origin"]\n\turl = {cloned_from}\n'
            files[".git/config"] = f"[core]\n\tbare = false\n{remote}"
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return folder


def described(path: Path) -> OldClone:
    """Return what a file describes."""
    return OldClone(**yaml.safe_load(path.read_text())["clone"])


if __name__ == "__main__":
    described(Path(sys.argv[1])).write(Path(sys.argv[2]))
