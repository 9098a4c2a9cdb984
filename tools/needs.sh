#!/usr/bin/env bash
# Make sure that programs are here: tools/needs.sh rsync ss zstd. As root on Debian: install them. Elsewhere: say which.
set -euo pipefail

package_of() {
  case "$1" in
    ss) echo iproute2 ;;
    flock) echo util-linux ;;
    xz) echo xz-utils ;;
    *) echo "$1" ;;
  esac
}

missing=()
for program in "$@"; do
  command -v "$program" >/dev/null || missing+=("$(package_of "$program")")
done
if [ "${#missing[@]}" -eq 0 ]; then exit 0; fi

if [ "$(id -u)" -ne 0 ] || [ ! -f /etc/debian_version ]; then
  echo "Please install, for the tests: ${missing[*]}" >&2
  exit 1
fi
exec 9>/tmp/api-endpoint-needs.lock
flock 9 # what apt starts does not keep this lock
echo "Installing for the tests: ${missing[*]} ..."
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive

install_missing() {
  apt-get update && apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=900 "${missing[@]}"
}
# apt waits for dpkg's lock, but not for those of its lists and its downloads.
for try in $(seq 180); do
  if install_missing >"$log" 2>&1 9>&-; then break; fi
  if [ "$try" -eq 180 ] || ! grep -q 'Could not get lock' "$log"; then
    tail -n 20 "$log" >&2
    exit 1
  fi
  if [ "$try" -eq 1 ]; then echo "Waiting for another apt: $(grep -m 1 'Could not get lock' "$log")"; fi
  sleep 5
done
rm -f "$log"
