#!/usr/bin/env bash
# Make sure that a Docker engine answers. As root on Debian: install and start one. Elsewhere: say what to install.
set -euo pipefail

answers() { docker info >/dev/null 2>&1; }

if answers; then exit 0; fi

if [ "$(id -u)" -ne 0 ] || [ ! -f /etc/debian_version ]; then
  cat >&2 <<'TEXT'
No Docker engine answers (`docker info` failed).
  macOS or Windows: install and start Docker Desktop (or colima), then run this again.
  Linux: install your distribution's Docker engine, start it, and add yourself to the group `docker`;
         on Debian or Ubuntu, running this once as root installs and starts it for you.
TEXT
  exit 1
fi

if ! command -v dockerd >/dev/null; then
  echo "No Docker engine here: installing Debian's docker.io ..."
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update && apt-get install -y --no-install-recommends docker.io iptables; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    exit 1
  fi
  rm -f "$log"
fi

if [ -d /run/systemd/system ]; then
  systemctl start docker
else
  log=/var/log/dockerd.log
  echo "Starting dockerd by hand (no systemd here); its log is $log"
  start=(dockerd)
  if [ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ]; then
    # Debian 13's systemd runs on cgroup v2 only: give the engine a v2 tree in a mount namespace of its own.
    start=(unshare -m --propagation private
      sh -c 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec dockerd')
  fi
  setsid nohup "${start[@]}" >"$log" 2>&1 </dev/null &
fi

for _ in $(seq 60); do
  if answers; then exit 0; fi
  sleep 1
done
echo "The Docker engine did not answer within 60 s." >&2
tail -n 20 /var/log/dockerd.log >&2 2>/dev/null || journalctl -u docker -n 20 --no-pager >&2
exit 1
