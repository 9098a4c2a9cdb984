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
flock 9 # apt waits for nobody; what it starts does not keep the lock
echo "Installing for the tests: ${missing[*]} ..."
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 9>&-; then
  tail -n 20 "$log" >&2
  exit 1
fi
rm -f "$log"
