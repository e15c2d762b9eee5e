#!/usr/bin/env bash
# A worker for one GPU: one run at a time; told to stop (SIGTERM), it ends after the run that it is on.
# Usage: deploy/worker.sh POOL [further options of `prefect worker start`]
#
# `prefect worker start` itself, told to stop, ends its runs at once, and the server goes on calling them running.
set -uo pipefail
pool=${1:?"the name of a work pool"}
shift
: "${PREFECT_API_URL:?"the address of the Prefect server, for example http://prefect:4200/api"}"

stopping=
trap 'stopping=yes; echo "stopping after the run that is under way"' TERM INT
until [ -n "$stopping" ]; do
  prefect worker start --pool "$pool" --limit 1 --run-once "$@" &
  worker=$!
  while kill -0 "$worker" 2>/dev/null; do wait "$worker"; done # a signal ends `wait`, not the worker
  [ -n "$stopping" ] || { sleep 5 & wait $!; }
done
