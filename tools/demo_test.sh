#!/usr/bin/env bash
# The quick start of README.md from scratch: a fresh instance, over SSH as a user with sudo, then once more.
# A demo that somebody is using is not touched: the test fails and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/engine.sh
log=$(mktemp)
elsewhere=$(mktemp --directory)

if [ "$(docker inspect --format '{{ .State.Running }}' api-endpoint-demo 2>/dev/null)" = true ]; then
  echo "demo: a demo is running, and this test needs its place: make demo-down, then again." >&2
  exit 1
fi

run() { # run WHAT COMMAND...
  local what=$1 begun=$SECONDS
  shift
  echo "demo: $what ..."
  "$@" >"$log" 2>&1 || { cat "$log"; exit 1; }
  echo "demo: $what took $((SECONDS - begun)) s, $(grep -c '^TASK' "$log" || true) tasks"
}

expect() { # expect WHAT PATTERN
  grep -qE "$2" "$log" || { cat "$log"; echo "demo: expected $1"; exit 1; }
}

trap 'tools/demo.sh down >/dev/null; rm -rf "$log" "$elsewhere"' EXIT
run "a dry run on the clean instance" tools/demo.sh dry-run
expect "a dry run without a failure" 'failed=0'
run "the first run" tools/demo.sh up
expect "an answer in French" '"language":"fr"'
run "the second run" tools/demo.sh up
expect "a second run that changes nothing" 'changed=0 +unreachable=0 +failed=0'

# The guide "The role in a playbook of your own": installed from git, the variables beside the inventory, nothing else of this project.
git init --quiet "$elsewhere/project"
cp --archive roles "$elsewhere/project" # as it is now, committed or not
git -C "$elsewhere/project" add --all
git -C "$elsewhere/project" -c user.name=somebody -c user.email=somebody@example.org commit --quiet --message "The role"
cat >"$elsewhere/requirements.yml" <<YAML
roles:
  - name: api_endpoint
    src: git+file://$elsewhere/project
YAML
cat >"$elsewhere/play.yml" <<YAML
- hosts: api_endpoints
  become: true
  gather_facts: false
  roles:
    - api_endpoint
YAML
cp --archive app "$elsewhere"
from_elsewhere() (
  inventory=$PWD/tools/demo.yml
  cd "$elsewhere"
  ansible-galaxy role install --role-file requirements.yml --roles-path roles
  ANSIBLE_ROLES_PATH=roles ansible-playbook -i "$inventory" play.yml
)
run "a run of a playbook elsewhere, with the role from git" from_elsewhere
expect "a run that changes nothing" 'changed=0 +unreachable=0 +failed=0'
run "a dry run on the deployed instance" tools/demo.sh dry-run
expect "a dry run that reports nothing" 'changed=0 +unreachable=0 +failed=0'
curl --silent --fail --max-time 10 http://127.0.0.1:8080/ | grep -q "Which language is it"
run "README's commands, on the same host" tools/readme_test.sh tools/demo.yml http://127.0.0.1:8080
echo "demo: passed"
