#!/usr/bin/env bash
# Run Molecule scenarios, and what else `make` can test, two at a time, and say what each took: tools/test.sh [--gate] default unit
# --gate leaves out the tests with the mark `full`, scenarios that have no others, and the second Debian where the first says
# enough. Jobs that need the same place are one argument: "demo-test bench-test".
set -euo pipefail
cd "$(dirname "$0")/.."

gate=
if [ "${1:-}" = --gate ]; then
  gate=1
  export CLUSTER_STANDBY=balancer CLUSTER_THREE=two # the hosts that the gate does without
  export PYTEST_ADDOPTS="-m 'not full' ${PYTEST_ADDOPTS:-}"
  shift
fi
export COLUMNS=${COLUMNS:-150} # Molecule folds lines at 80 otherwise
tools/needs.sh bzip2 chromium curl flock haproxy keepalived nginx rsync ss xz zstd
if [ -z "$gate" ]; then tools/needs.sh slowhttptest; fi
tools/engine.sh
tools/image.sh 12 &
tools/image.sh 13 13-warm
wait $!

hosts_of() { # hosts_of SCENARIO: the option that says which of its hosts are tested
  # A scenario with platforms of its own needs all of them.
  if [ -z "$gate" ] || grep -q '^platforms:' "molecule/$1/molecule.yml"; then return; fi
  echo "--platform-name=$1-debian13"
}
is_full() { # is_full SCENARIO: whether all its tests have the mark `full`
  local file
  [ -d "molecule/$1" ] || return
  for file in "molecule/$1"/tests/test_*.py; do
    grep --quiet '^pytestmark = pytest\.mark\.full$' "$file" || return
  done
}
run() { # run SCENARIO | run "TARGET..."
  local options
  if [ -d "molecule/$1" ]; then
    read -ra options <<<"$(hosts_of "$1")"
    molecule test --scenario-name "$1" "${options[@]}"
  else
    read -ra options <<<"$1"
    make --no-print-directory "${options[@]}"
  fi
}
one() { # one SCENARIO | one "TARGET..."
  local started=$SECONDS
  if run "$1" 2>&1 </dev/null | tee "$logs/$1.log" | sed --unbuffered "s/^/$1: /"; then
    printf '%4d s  %s\n' $((SECONDS - started)) "$1" >>"$logs/passed"
  else
    # Once more at the end, which people read first.
    {
      printf '\nFailed in %s:\n' "$1"
      grep --text --extended-regexp '(^| )((FAILED|ERROR) |E   )|fatal: |(passed|failed).* in ' "$logs/$1.log" | tail -n 25 \
        || tail -n 25 "$logs/$1.log"
    } >>"$logs/failed"
  fi
}
lane() { # lane JOB...: each that no other lane has started
  for job in "$@"; do
    if mkdir "$logs/$job.started" 2>/dev/null; then one "$job"; fi
  done
}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# The longest first, except that one lane begins with what fails soonest.
mapfile -t jobs < <(
  printf '%s\n' interruptions cluster default releases debian_upgrade real_world adopted faults "demo-test bench-test" demo-test \
    tutorial-test migrate artifacts privacy walls diagnose volume operations profiles component unit lint "$@" \
    | grep --fixed-strings --line-regexp "$(printf '%s\n' "$@")" \
    | awk '!seen[$0]++' \
    | while read -r job; do if [ -z "$gate" ] || ! is_full "$job"; then echo "$job"; fi; done
)
quick=()
for job in lint unit component; do
  for given in "${jobs[@]}"; do
    if [ "$job" = "$given" ]; then quick+=("$job"); fi
  done
done
lane "${quick[@]}" "${jobs[@]}" &
lane "${jobs[@]}"
wait $!

if [ -e "$logs/failed" ]; then
  cat "$logs/failed" >&2
  exit 1
fi
printf '\nAll passed in %d s:\n' "$SECONDS"
sort --reverse --numeric-sort "$logs/passed"
# A job that no lane started has not passed.
[ "$(wc -l <"$logs/passed")" = "${#jobs[@]}" ]
