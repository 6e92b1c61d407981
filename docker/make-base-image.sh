#!/bin/bash
# make-base-image.sh TAG: a base image for machines that reach Debian's mirror and no container registry.
# Debian bookworm with Python 3.11 and a compiler; needs root and debootstrap.
set -euo pipefail
tag=${1:?usage: make-base-image.sh TAG}
if docker image inspect "$tag" >/dev/null 2>&1; then exit 0; fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,g++ bookworm "$folder/root" >"$folder/log" 2>&1 \
  || { tail -20 "$folder/log" >&2; exit 1; }
cd "$folder/root"
rm -rf var/cache/apt/* var/lib/apt/lists/* usr/share/{doc,man,info,locale}
tar --numeric-owner -c . | docker import -c 'CMD ["python3"]' -c 'ENV LANG=C.UTF-8' - "$tag"
