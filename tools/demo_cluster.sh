#!/usr/bin/env bash
# demo_cluster.sh up: a balancer and three instances behind it; a question, a release in turn under load, and a host that dies.
# demo_cluster.sh down: remove them.
set -euo pipefail
cd "$(dirname "$0")/.."

url=http://127.0.0.1:8090
network=api-endpoint-demo-cluster
subnet=10.177.88 # of addresses that endpoints trust as proxies: tools/demo-cluster.yml
balancer=api-endpoint-demo-balancer
endpoints=(api-endpoint-demo-1 api-endpoint-demo-2 api-endpoint-demo-3)
keys=.demo-cluster # the key pair and the host keys of this demo only; not committed
app=$keys/app
# shellcheck source=tools/instance.sh
. tools/instance.sh

down() {
  docker rm --force --volumes "$balancer" "${endpoints[@]}" >/dev/null 2>&1 || true
  docker network rm "$network" >/dev/null 2>&1 || true
  rm -rf "$keys"
  echo "The demo of a cluster is gone."
}

say() { printf '\n--- %s\n' "$*"; }

start_instances() {
  tools/engine.sh
  docker network inspect "$network" >/dev/null 2>&1 || docker network create --subnet "$subnet.0/24" "$network" >/dev/null
  start_instance "$balancer" 2230 --network "$network" --ip "$subnet.10" --publish 127.0.0.1:8090:80
  for number in 1 2 3; do
    start_instance "api-endpoint-demo-$number" "223$number" --network "$network" --ip "$subnet.1$number"
  done
}

deploy() {
  ansible-playbook -i tools/demo-cluster.yml site.yml --extra-vars "api_endpoint_app_dir=$app"
}

ask() { # ask TEXT
  printf '$ curl -G %s/api/v1/language --data-urlencode "text=%s"\n' "$url" "$1"
  curl --silent --show-error --fail --max-time 10 --get "$url/api/v1/language" --data-urlencode "text=$1"
}

answered_by() { # how many requests each host's nginx has in its log
  for endpoint in "${endpoints[@]}"; do
    is_running "$endpoint" || continue
    printf '  %s has answered %s\n' "$endpoint" "$(docker exec "$endpoint" grep -c /api/ /var/log/nginx/access.log || true)"
  done
}

load=
trap 'if [ -n "$load" ]; then kill "$load"; fi' EXIT

begin_load() {
  python tools/demo_load.py "$url/api/v1/language?text=bonjour" &
  load=$!
}

end_load() { # says how many of the requests failed
  kill "$load"
  wait "$load"
  load=
}

up() {
  start_instances
  rm -rf "$app"
  cp -R app "$app"

  say "The balancer and ${#endpoints[@]} endpoints, on clean instances"
  deploy
  say "A question, to the balancer"
  ask "Où est la bibliothèque ?"
  for _ in $(seq 60); do curl --silent --fail --max-time 10 --output /dev/null "$url/api/v1/language?text=hola"; done
  echo "60 more. So far:"
  answered_by

  say "New code, host after host, while 50 requests a second are asked"
  printf '\n# A new line of code, %s\n' "$(date)" >>"$app/wsgi.py"
  begin_load
  deploy
  end_load

  say "${endpoints[2]} dies, while 50 requests a second are asked"
  begin_load
  docker kill "${endpoints[2]}" >/dev/null
  sleep 10 # what the demo shows: how it goes on without it
  end_load
  answered_by
  say "${endpoints[2]} comes back, and nobody tells the balancer"
  docker start "${endpoints[2]}" >/dev/null
  wait_for 60 "The return of ${endpoints[2]}" is_up "${endpoints[2]}"
  echo "The balancer has it back."
  cat <<TEXT

The API is live: $url (that page shows how to call it).
  log in:   ssh -i $keys/id_ed25519 -p 2230 -o UserKnownHostsFile=$keys/known_hosts researcher@127.0.0.1   (2231 to 2233: endpoints)
  again:    make demo-cluster
  stop it:  make demo-cluster-down
TEXT
}

is_up() { # is_up ENDPOINT: whether the balancer gives it requests
  docker exec "$balancer" python3 -c '
import socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect("/run/haproxy/admin.sock")
asked.sendall(b"show stat\n")
lines = b"".join(iter(lambda: asked.recv(65536), b"")).decode().splitlines()
sys.exit(not any(line.split(",")[:2] == ["api", sys.argv[1]] and line.split(",")[17] == "UP" for line in lines))
' "$1"
}

case "${1:-}" in
  up | down) "$1" ;;
  *) echo "usage: tools/demo_cluster.sh up|down" >&2; exit 2 ;;
esac
