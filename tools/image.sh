#!/usr/bin/env bash
# Build the test-host images that are missing: tools/image.sh 12 13-warm. Prints nothing when there is nothing to do.
# A warm one has the packages that the roles install, and pip's cache, for tests that are not about a clean host.
# The base comes from an image registry where one answers, else it is bootstrapped from Debian's packages.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

codename() {
  case "$1" in
    12) echo bookworm ;;
    13) echo trixie ;;
    *) echo "image.sh: Debian $1 is not supported; choose 12 or 13" >&2; return 1 ;;
  esac
}

bootstrap() { # bootstrap CODENAME TAG
  "$here/needs.sh" mmdebstrap || { echo "Or connect to an image registry: none answers." >&2; return 1; }
  echo "  no image registry answers: bootstrapping Debian $1 from its packages (about 20 s) ..."
  mmdebstrap --variant=minbase --include=ca-certificates "$1" "$work/base.tar" 2>"$work/bootstrap.log" \
    || { tail -n 20 "$work/bootstrap.log" >&2; return 1; }
  docker import "$work/base.tar" "$2" >/dev/null
}

requirements() { # those of the apps of the demo and the tests, and the role's own gunicorn
  sed -n 's/^api_endpoint_gunicorn: *//p' "$here/../roles/api_endpoint/defaults/main.yml"
  cat "$here"/../app/requirements.txt "$here"/../molecule/*/app/requirements.txt "$here"/../molecule/shared/*/requirements.txt \
    | sed '/^#/d' | sort -u
}

for image_of in "$@"; do
  release=${image_of%-warm}
  image="api-endpoint-testhost:debian$image_of"
  target=clean
  if [ "$image_of" != "$release" ]; then target=warm; fi
  recipe=$( (cat "$here/testhost/Dockerfile" "$here/image.sh"; [ "$target" = clean ] || requirements) | cksum | cut -d' ' -f1)
  have=$(docker image inspect --format '{{ index .Config.Labels "recipe" }}' "$image" 2>/dev/null || true)
  if [ "$have" = "$recipe" ]; then continue; fi

  echo "Building the test host $image ..."
  name=$(codename "$release")
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  base="debian:$name-slim"
  if ! docker image inspect "$base" >/dev/null 2>&1 && ! docker pull --quiet "$base" >/dev/null 2>&1; then
    base="api-endpoint-base:$name"
    docker image inspect "$base" >/dev/null 2>&1 || bootstrap "$name" "$base"
  fi
  cp "$here/testhost/Dockerfile" "$work/"
  requirements >"$work/requirements.txt"
  mkdir "$work/authorities"
  bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
  if [ -f "$bundle" ]; then cp "$bundle" "$work/authorities/build-machine.crt"; fi
  if ! docker build --target "$target" --label "recipe=$recipe" --build-arg "base=$base" --tag "$image" "$work" >"$work/build.log" 2>&1; then
    tail -n 30 "$work/build.log" >&2
    exit 1
  fi
  rm -rf "$work"
done
