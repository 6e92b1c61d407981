#!/bin/sh
# Flower's command line also writes to its home, so the settings go to the memory file system first.
set -e
mkdir -p "$FLWR_HOME"
cp /opt/fedfmd/config.toml "$FLWR_HOME/config.toml"
exec "$@"
