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
  local begun=$SECONDS
  if run "$1" 2>&1 </dev/null | tee "$logs/$1.log" | sed --unbuffered "s/^/$1: /"; then
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
lane() { # lane JOB...: each that no other lane has begun
  for job in "$@"; do
    if mkdir "$logs/$job.begun" 2>/dev/null; then one "$job"; fi
  done
}
logs=$(mktemp --directory)
trap 'rm -rf "$logs"' EXIT

# In front what puts a constant load on its hosts and lets no request fail, in the back what fails soonest. One lane begins in
# front and one in the back, until they meet: so no two of those loads disturb each other, nor the short bench most of them.
mapfile -t jobs < <(
  printf '%s\n' cluster releases faults privacy adopted migrate "demo-test bench-test" operations profiles volume diagnose \
    artifacts default unit lint "$@" \
    | grep --fixed-strings --line-regexp "$(printf '%s\n' "$@")" \
    | awk '!seen[$0]++'
)
backwards=()
for job in "${jobs[@]}"; do backwards=("$job" "${backwards[@]}"); done
lane "${jobs[@]}" &
lane "${backwards[@]}"
wait $!

if [ -e "$logs/failed" ]; then
  cat "$logs/failed" >&2
  exit 1
fi
printf '\nAll passed:\n'
cat "$logs/passed"
# What was never begun has not passed.
[ "$(wc -l <"$logs/passed")" = "$#" ]
