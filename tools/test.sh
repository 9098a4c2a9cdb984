#!/usr/bin/env bash
# Run Molecule scenarios, and what else `make` can test, two at a time, and say what each took: tools/test.sh default unit
# What needs the same place is one argument: "demo-test bench-test".
set -euo pipefail
cd "$(dirname "$0")/.."

export COLUMNS=${COLUMNS:-150} # Molecule folds lines at 80 otherwise
tools/needs.sh rsync
case " $* " in *" privacy "*) tools/needs.sh chromium slowhttptest ;; esac
case " $* " in *" operations "*) tools/needs.sh chromium ;; esac
tools/engine.sh
tools/image.sh 12 &
tools/image.sh 13
wait $!

run() { # run SCENARIO | run "TARGET..."
  local targets
  if [ -d "molecule/$1" ]; then
    molecule test --scenario-name "$1"
  else
    read -ra targets <<<"$1"
    make --no-print-directory "${targets[@]}"
  fi
}
one() { # one SCENARIO | one "TARGET..."
  if [ -e "$logs/failed" ]; then return; fi # begin no other
  local begun=$SECONDS
  if run "$1" 2>&1 | tee "$logs/$1.log" | sed --unbuffered "s/^/$1: /"; then
    printf '%4d s  %s\n' $((SECONDS - begun)) "$1" >>"$logs/passed"
  else
    # Once more at the end, where one looks first.
    {
      printf '\nWhat failed in %s:\n' "$1"
      grep --text --extended-regexp '(^| )((FAILED|ERROR) |E   )|fatal: |(passed|failed).* in ' "$logs/$1.log" | tail -n 25 \
        || tail -n 25 "$logs/$1.log"
    } >>"$logs/failed"
  fi
}
export -f one run
logs=$(mktemp --directory)
export logs
trap 'rm -rf "$logs"' EXIT

# The longest first, or the others wait for it in the end; before them what fails soonest.
printf '%s\n' lint releases cluster default privacy faults artifacts unit "demo-test bench-test" "$@" \
  | grep --fixed-strings --line-regexp "$(printf '%s\n' "$@")" \
  | awk '!seen[$0]++' \
  | tr '\n' '\0' \
  | xargs --null --max-procs=2 --replace bash -o pipefail -c 'one "{}"'

if [ -e "$logs/failed" ]; then
  cat "$logs/failed" >&2
  exit 1
fi
printf '\nAll passed:\n'
cat "$logs/passed"
# What was never begun has not passed.
[ "$(wc -l <"$logs/passed")" = "$#" ]
