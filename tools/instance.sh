#!/usr/bin/env bash
# "Instances" for the demos: containers with systemd, sshd and the user researcher, who has sudo. To be sourced, from the project's
# folder, with `keys` set to the folder of this demo's key pair and host keys (not committed), and perhaps `debian`, 13 otherwise.

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

is_running() { # is_running CONTAINER
  [ "$(docker inspect --format '{{ .State.Running }}' "$1" 2>/dev/null)" = true ]
}

make_key() {
  if [ -f "${keys:?}/id_ed25519" ]; then return 0; fi
  (umask 077 && mkdir -p "$keys")
  ssh-keygen -q -t ed25519 -N '' -C api-endpoint-demo -f "$keys/id_ed25519"
}

refuse_taken_ports() { # refuse_taken_ports PORT...: fail when another program listens on one, and name it
  local port owner
  for port in "$@"; do
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue; fi
    owner=$(docker ps --filter "publish=$port" --format '{{ .Names }}' 2>/dev/null | head -n 1)
    if [ -n "$owner" ]; then
      owner="the container $owner. Stop it (docker stop $owner)"
    else
      owner=$({ lsof -nP -sTCP:LISTEN -iTCP:"$port" || ss -Hltnp "sport = :$port"; } 2>/dev/null | tail -n 1)
      owner="another program${owner:+ ($owner)}. Stop it"
    fi
    echo "Nothing was started. Port $port of this computer is taken by $owner, and run this again." >&2
    return 1
  done
}

start_instance() { # start_instance CONTAINER SSH_PORT [OPTIONS OF DOCKER RUN...]
  local container=$1 port=$2
  shift 2
  if is_running "$container"; then
    echo "The instance $container is running: deploying to it again."
  else
    # shellcheck disable=SC2046
    refuse_taken_ports "$port" $(printf '%s\n' "$@" | sed -n 's/^127\.0\.0\.1:\([0-9]*\):.*/\1/p') || return 1
    echo "Starting the instance $container (Debian 13, sshd, user researcher with sudo) ..."
    tools/testhost/start.sh "$container" "${debian:-13}" --publish "127.0.0.1:$port:22" "$@"
  fi
  make_key
  docker exec --interactive "$container" sh -c \
    'umask 077; mkdir -p ~researcher/.ssh; cat >~researcher/.ssh/authorized_keys; chown -R researcher: ~researcher/.ssh' \
    <"$keys/id_ed25519.pub"
  wait_for 60 "The start of sshd" docker exec "$container" systemctl is-active --quiet ssh.service
  touch "$keys/known_hosts"
  sed -i.before "/^\[127\.0\.0\.1\]:$port /d" "$keys/known_hosts"
  docker exec "$container" cat /etc/ssh/ssh_host_ed25519_key.pub \
    | awk -v port="$port" '{ print "[127.0.0.1]:" port " " $1 " " $2 }' >>"$keys/known_hosts"
}
