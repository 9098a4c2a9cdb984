#!/usr/bin/env bash
# demo.sh up: a Debian 13 "instance" in a container, the API on it, and a question to the API.
# demo.sh dry-run: the instance, and what would be done to it. demo.sh down: remove it.
set -euo pipefail
cd "$(dirname "$0")/.."

container=api-endpoint-demo
url=http://127.0.0.1:8080
keys=.demo # the key pair and the host key of this demo only; not committed
# shellcheck source=tools/instance.sh
. tools/instance.sh

down() {
  docker rm --force --volumes "$container" >/dev/null 2>&1 || true
  rm -rf "$keys"
  echo "The demo is gone."
}

instance() {
  tools/engine.sh
  start_instance "$container" 2222 --publish 127.0.0.1:8080:80
}

ask() { # ask TEXT
  printf '\n$ curl -G %s/api/v1/language --data-urlencode "text=%s"\n' "$url" "$1"
  curl --silent --show-error --fail --max-time 10 --get "$url/api/v1/language" --data-urlencode "text=$1"
}

up() {
  instance &
  make --no-print-directory venv # meanwhile
  wait $!
  ansible-playbook -i tools/demo.yml site.yml
  ask "Où est la bibliothèque ?"
  cat <<TEXT

The API is live: $url (that page shows how to call it).
  log in:   ssh -i $keys/id_ed25519 -p 2222 -o UserKnownHostsFile=$keys/known_hosts researcher@127.0.0.1
  again:    make demo        (after changing app/, say)
  stop it:  make demo-down
TEXT
}

dry_run() {
  instance
  ansible-playbook -i tools/demo.yml site.yml --check --diff
}

case "${1:-}" in
  up | down) "$1" ;;
  dry-run) dry_run ;;
  *) echo "usage: tools/demo.sh up|dry-run|down" >&2; exit 2 ;;
esac
