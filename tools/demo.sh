#!/usr/bin/env bash
# demo.sh up: a Debian 13 "instance" in a container, the API on it, and a question to the API.
# demo.sh dry-run: the instance, and what would be done to it. demo.sh down: remove it.
set -euo pipefail
cd "$(dirname "$0")/.."

container=api-endpoint-demo
url=http://127.0.0.1:8080
keys=.demo # the key pair and the host key of this demo only; not committed

down() {
  docker rm --force --volumes "$container" >/dev/null 2>&1 || true
  rm -rf "$keys"
  echo "The demo is gone."
}

wait_for() { # wait_for SECONDS WHAT COMMAND...
  local seconds=$1 what=$2
  shift 2
  for _ in $(seq "$seconds"); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 1
  done
  echo "$what did not happen within $seconds s." >&2
  return 1
}

start_instance() {
  tools/image.sh 13
  if [ "$(docker inspect --format '{{ .State.Running }}' "$container" 2>/dev/null)" = true ]; then
    echo "The instance $container is running: deploying to it again."
  else
    echo "Starting the instance $container (Debian 13, sshd, user researcher with sudo) ..."
    docker rm --force --volumes "$container" >/dev/null 2>&1 || true
    docker run --detach --name "$container" --hostname "$container" \
      --publish 127.0.0.1:8080:80 --publish 127.0.0.1:2222:22 \
      --cgroupns host --volume /sys/fs/cgroup:/sys/fs/cgroup:rw --tmpfs /run --tmpfs /tmp:exec \
      --cap-add SYS_ADMIN --cap-add NET_ADMIN \
      --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
      "api-endpoint-testhost:debian13" >/dev/null
    rm -rf "$keys"
  fi
  if [ ! -f "$keys/id_ed25519" ]; then
    rm -rf "$keys"
    mkdir -m 0700 "$keys"
    ssh-keygen -q -t ed25519 -N '' -C "$container" -f "$keys/id_ed25519"
    docker exec --interactive "$container" sh -c \
      'umask 077; mkdir -p ~researcher/.ssh; cat >~researcher/.ssh/authorized_keys; chown -R researcher: ~researcher/.ssh' \
      <"$keys/id_ed25519.pub"
  fi
  wait_for 60 "The start of sshd" docker exec "$container" systemctl is-active --quiet ssh.service
  docker exec "$container" cat /etc/ssh/ssh_host_ed25519_key.pub \
    | awk '{ print "[127.0.0.1]:2222 " $1 " " $2 }' >"$keys/known_hosts"
}

ask() { # ask TEXT
  printf '\n$ curl -G %s/api/v1/language --data-urlencode "text=%s"\n' "$url" "$1"
  curl --silent --show-error --fail --max-time 10 --get "$url/api/v1/language" --data-urlencode "text=$1"
}

up() {
  tools/engine.sh
  start_instance
  ansible-playbook -i inventory/demo.yml site.yml
  ask "Où est la bibliothèque ?"
  cat <<TEXT

The API is live: $url (that page shows how to call it).
  log in:   ssh -i $keys/id_ed25519 -p 2222 -o UserKnownHostsFile=$keys/known_hosts researcher@127.0.0.1
  again:    make demo        (after changing app/, say)
  stop it:  make demo-down
TEXT
}

dry_run() {
  tools/engine.sh
  start_instance
  ansible-playbook -i inventory/demo.yml site.yml --check --diff
}

case "${1:-}" in
  up | down) "$1" ;;
  dry-run) dry_run ;;
  *) echo "usage: tools/demo.sh up|dry-run|down" >&2; exit 2 ;;
esac
