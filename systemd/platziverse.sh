#!/bin/sh
# The command `platziverse` for the service: with its configuration, unless another one is named.
PLATZIVERSE_CONFIG=${PLATZIVERSE_CONFIG:-/etc/platziverse/platziverse.toml}
export PLATZIVERSE_CONFIG
exec /opt/platziverse/bin/platziverse "$@"
