#!/usr/bin/env bash
# What a stranger does first, and CI each time: everything up, a sample imported, another one stopped in the middle. It goes on.
# Leaves all of it running; `docker compose --profile demo down --volumes` takes it away.
set -euo pipefail
cd "$(dirname "$0")/../.."
api=http://127.0.0.1:${IMPORTER_PORT:-8000}

field() { python3 -c 'import functools, json, sys; print(functools.reduce(lambda found, name: (found or {}).get(name), sys.argv[1].split("."), json.load(sys.stdin)))' "$1"; }
get() { curl --fail --silent --show-error --retry 30 --retry-all-errors --retry-delay 1 "$api$1"; }
rows() { docker compose exec -T postgres psql --username importer --tuples-only --no-align --command 'SELECT count(*) FROM trips' taxi; }
submit() { # prints the import's path
    curl --fail --silent --show-error "$api/imports" --header 'Content-Type: application/json' \
        --data '{"url": "http://files:8080/sample.csv", "force": true}' | field links.self
}
succeeded() { # waits for its end: the stream of its events ends with it
    get "$1/events" > /dev/null
    [ "$(get "$1" | field state)" = succeeded ] || { get "$1" >&2; exit 1; }
}

docker compose --profile demo up --build --detach --wait
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
[ "$(get "$import" | field attempt)" = 2 ]
[ "$(rows)" = $((before + imported)) ]
echo "two imports of $imported rows, the second of them in two attempts"
