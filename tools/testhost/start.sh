#!/usr/bin/env bash
# Start a test host, a container with systemd inside: start.sh NAME DEBIAN [OPTIONS OF DOCKER RUN...]
# DEBIAN names the image: 12, 13, or 12-warm, 13-warm (see image.sh), which is built when it is missing. A host that runs stays.
set -euo pipefail
tools=$(cd "$(dirname "$0")/.." && pwd)
name=$1 debian=$2
shift 2

if [ "$(docker inspect --format '{{ .State.Running }}' "$name" 2>/dev/null)" = true ]; then exit 0; fi
"$tools/image.sh" "$debian"
docker rm --force --volumes "$name" >/dev/null 2>&1 || true
options=(
  --cgroupns host --volume /sys/fs/cgroup:/sys/fs/cgroup:rw
  --tmpfs /run --tmpfs /tmp:exec
  # SYS_PTRACE: the privacy audit reads the memory of the services.
  --cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add SYS_PTRACE
  --security-opt seccomp=unconfined --security-opt apparmor=unconfined
  --sysctl net.ipv6.conf.all.disable_ipv6=0
  --sysctl net.unix.max_dgram_qlen=512 # as systemd sets it on a host that is no container
)
docker run --detach --name "$name" --hostname "$name" "${options[@]}" "$@" "api-endpoint-testhost:debian$debian" >/dev/null
