#!/usr/bin/env bash
# readme_test.sh INVENTORY URL: the commands of README.md, as they stand there and in that order, in a copy of the project.
# `make demo` has run before; its host, or another one that INVENTORY has, gets the endpoint, which answers at URL.
set -euo pipefail
cd "$(dirname "$0")/.."
inventory=$1 url=$2
copy=$(mktemp --directory)
trap 'rm -rf "$copy"' EXIT

# shellcheck disable=SC2016 # the backticks are README's fences
mapfile -t commands < <(sed -n '/^```sh$/,/^```$/p' README.md | sed -n 's/ *#.*//; /^make/p')
[ "${#commands[@]}" = 5 ] || { echo "readme: expected five commands, found ${#commands[@]}" >&2; exit 1; }

git ls-files -z --cached --others --exclude-standard -- ':!endpoints' >"$copy.files"
rsync --archive --from0 --files-from="$copy.files" --ignore-missing-args . "$copy"
rm "$copy.files"
ln -s "$PWD/.venv" "$copy/.venv"
endpoint=$copy/endpoints/my-api

place_host() { # what README says to do before the next command: the host's address instead of the example's
  python - "$inventory" >"$endpoint/inventory.yml" <<'PYTHON'
import pathlib, sys, yaml

text = pathlib.Path(sys.argv[1]).resolve()
hosts = yaml.safe_load(text.read_text().replace("{{ inventory_dir }}", str(text.parent)))["api_endpoints"]["hosts"]
connection = {name: value for name, value in next(iter(hosts.values())).items() if name.startswith("ansible_")}
print(yaml.safe_dump({"api_endpoints": {"hosts": {"my-api": connection}}}))
PYTHON
}

expect_answer() { # expect_answer PATTERN
  local answer
  answer=$(curl --silent --show-error --fail --max-time 10 --header "Host: my-api.wmcloud.org" \
    --json '{"text": "Où est la bibliothèque ?"}' "$url/api/v1/predict")
  [[ $answer =~ $1 ]] || { echo "readme: expected $1 in the answer, which is $answer" >&2; exit 1; }
}

for command in "${commands[@]}"; do
  [ "$command" != "make demo" ] || continue
  if [[ $command == "make rollback"* ]]; then
    sed -i 's/"label": /"version": 2, "label": /' "$endpoint/app/model.py"
    make --directory "$copy" deploy NAME=my-api
    expect_answer '"version":2'
  fi
  (cd "$copy" && bash -c "$command")
  case $command in
    "make new-endpoint"*) place_host ;;
    "make deploy"*) expect_answer '^\{"label":"fr"' ;;
    "make rollback"*) expect_answer '^\{"label":"fr"' ;;
  esac
done
