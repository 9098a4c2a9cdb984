#!/usr/bin/env bash
# The guide docs/guides/joblib.md, word by word, in a copy of this clone and on a fresh instance, over SSH as a user with sudo.
# Its host, its public name and the way to it are the instance's.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/engine.sh

container=${TUTORIAL_CONTAINER:-api-endpoint-tutorial}
ssh_port=${TUTORIAL_SSH_PORT:-2226} http_port=${TUTORIAL_HTTP_PORT:-8086}
work=$(mktemp --directory)
keys=$work/keys
export debian=13-warm
# shellcheck source=tools/instance.sh
. tools/instance.sh
trap 'docker rm --force --volumes "$container" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
docker rm --force --volumes "$container" >/dev/null 2>&1 || true
# scikit-learn is fetched once for all runs; the host's pip finds it beside the index.
wheels=$PWD/.cache/wheels-debian13
python -m pip download --quiet --disable-pip-version-check --dest "$wheels" --only-binary=:all: --python-version 3.13 \
  --requirement skeleton/sklearn/app/requirements.txt 2>/dev/null || mkdir -p "$wheels"
start_instance "$container" "$ssh_port" --publish "127.0.0.1:$http_port:80" --volume "$wheels:/srv/wheels:ro"
docker exec "$container" sh -c 'printf "[install]\nfind-links = /srv/wheels\n" >/etc/pip.conf'

# As it is now, committed or not. The virtualenv is this clone's, and counts as made.
mkdir "$work/clone"
git ls-files -z --cached --others --exclude-standard | rsync --archive --from0 --files-from=- --ignore-missing-args . "$work/clone"
ln -s "$(dirname "$(dirname "$(command -v ansible-playbook)")")" "$work/clone/.venv"
touch --date=@0 "$work"/clone/requirements*.txt "$work/clone/app/requirements.txt"

ssh_options="-o Port=$ssh_port -o IdentityFile=$keys/id_ed25519 -o IdentitiesOnly=yes -o UserKnownHostsFile=$keys/known_hosts"
python tools/follow.py docs/guides/joblib.md "$work/clone" \
  my-instance.my-project.eqiad1.wikimedia.cloud 127.0.0.1 \
  "-o ProxyJump=my-shell-name@bastion.wmcloud.org" "$ssh_options" \
  my-shell-name researcher \
  "curl -s" "curl -s --max-time 30 --noproxy '*' -H Host:iris.wmcloud.org" \
  https://iris.wmcloud.org "http://127.0.0.1:$http_port"
if docker exec "$container" find / -xdev -name 'iris*' -not -path '/usr/*' -not -path '/proc/*' | grep .; then
  echo "tutorial: the host still has the files above" >&2
  exit 1
fi
echo "tutorial: passed"
