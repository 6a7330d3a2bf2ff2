#!/usr/bin/env bash
# Tests Compose: starts everything although the database's first start is killed, imports a sample, then stops and resumes another import.
# Then it kills the service during a load into a throttled database: the crash may cost at most a minute of work.
# Leaves everything running; `docker compose --profile demo down --volumes` removes it.
set -euo pipefail
cd "$(dirname "$0")/../.."
export ROWS=${ROWS:-6000000}   # 960 MB
api=http://127.0.0.1:${IMPORTER_PORT:-8000}

field() { python3 -c 'import functools, json, sys; print(functools.reduce(lambda found, name: (found or {}).get(name), sys.argv[1].split("."), json.load(sys.stdin)))' "$1"; }
get() { curl --fail --silent --show-error --retry 30 --retry-all-errors --retry-delay 1 "$api$1"; }
query() { docker compose exec -T postgres psql --username importer --tuples-only --no-align --command "$1" taxi; }
rows() { query 'SELECT count(*) FROM trips'; }
submit() { # prints the import's path
    curl --fail --silent --show-error "$api/imports" --header 'Content-Type: application/json' \
        --data '{"url": "http://files:8080/sample.csv", "force": true}' | field links.self
}
succeeded() { # waits until the import ends: its event stream ends with it
    get "$1/events" > /dev/null
    [ "$(get "$1" | field state)" = succeeded ] || { get "$1" >&2; exit 1; }
}

docker compose --profile demo build
docker compose up --no-build --detach postgres
until docker compose exec -T postgres sh -c 'test -e /var/lib/postgresql/initialising || test -e "$PGDATA/postmaster.pid"'; do sleep 0.1; done
docker compose kill postgres
docker compose --profile demo up --no-build --detach --wait
import=$(submit)
succeeded "$import"
imported=$(get "$import" | field receipt.rows_published)
[ "$imported" -gt 0 ]
before=$(rows)

import=$(submit)
until [ "$(get "$import" | field progress.bytes_done)" -gt 0 ]; do get "$import?wait=1" > /dev/null; done
docker compose stop importer postgres
docker compose --profile demo up --no-build --detach --wait
succeeded "$import"
[ "$(get "$import" | field attempts)" = 2 ]
[ "$(rows)" = $((before + imported)) ]

import=$(submit)
until [ "$(get "$import" | field phase)" = loading ]; do get "$import?wait=1" > /dev/null; done
database=$(docker compose ps --quiet postgres)
docker update --cpus 0.08 "$database" > /dev/null   # the whole sample takes two minutes now, a block three seconds
loading=$SECONDS
sleep 100
[ "$(get "$import" | field phase)" = loading ]
loaded=$(get "$import" | field progress.bytes_done)
docker compose kill importer
seconds=$((SECONDS - loading))
docker update --cpus "$(nproc)" "$database" > /dev/null
committed=$(query "SELECT coalesce(sum(byte_end - byte_start), 0) FROM loader.block JOIN loader.import USING (import_key) WHERE state = 'loading'")
# A minute of work is 60 / seconds of what was loaded.
[ "$committed" -ge $((loaded * (seconds - 60) / seconds)) ] || { echo "a crash after $seconds s cost $((loaded - committed)) of $loaded bytes" >&2; exit 1; }
until [ "$(docker inspect --format '{{.State.Health.Status}}' "$database")" = healthy ]; do sleep 1; done   # while throttled it fails its checks
docker compose --profile demo up --no-build --detach --wait
succeeded "$import"
[ "$(rows)" = $((before + 2 * imported)) ]
echo "a crash after $seconds s of loading kept $committed of $loaded bytes"
echo "three imports of $imported rows, two of them in two attempts"
