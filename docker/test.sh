#!/bin/bash
# Run tests/docker on this machine: install an engine, start it, make a base image and wheels, where missing.
# Debian, as root. What was started here is stopped again.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
engine=
finish() { if [ -n "$engine" ]; then kill "$engine"; wait "$engine" 2>/dev/null || true; fi; }
trap finish EXIT

if ! command -v dockerd >/dev/null || ! command -v debootstrap >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    docker.io docker-compose iptables cgroupfs-mount debootstrap >/dev/null
fi
if ! docker info >/dev/null 2>&1; then
  [ -e /sys/fs/cgroup/cgroup.controllers ] || mountpoint -q /sys/fs/cgroup/memory || cgroupfs-mount
  log=$(mktemp)
  dockerd >"$log" 2>&1 &
  engine=$!
  for _ in $(seq 60); do docker info >/dev/null 2>&1 && break; sleep 0.5; done
  docker info >/dev/null || { tail "$log" >&2; exit 1; }
fi
base=
if [ -z "${BASE_IMAGE:-}" ]; then
  export BASE_IMAGE=fedfmd-base:bookworm
  bash docker/make-base-image.sh "$BASE_IMAGE" &  # while the wheels come
  base=$!
fi
if ! ls docker/wheels/torch-*.whl >/dev/null 2>&1; then
  "$python" -m pip download --quiet --only-binary=:all: --dest docker/wheels \
    -r fedfmd/deployment/image/requirements.txt "torch==${TORCH:-2.13.0}"
fi
if [ -n "$base" ]; then wait "$base"; fi
export PIP_NO_INDEX=1 TORCH_INDEX= BUILD_NETWORK=none
"$python" -m pytest -m docker tests/docker "$@"
