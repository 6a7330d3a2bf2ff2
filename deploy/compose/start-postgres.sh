#!/bin/sh
# Process 1 of Compose's `postgres`: creates the cluster if there is none, sets up the importer's role, then becomes the
# server, with the same arguments. If it is killed at any moment, the next start completes what is missing.
set -eu

# An unfinished cluster looks like a complete one. This file, beside it in the volume, marks it as unfinished.
volume=${PGDATA%/*/*}
unfinished=$volume/initialising
trap 'exit 143' INT TERM
[ ! -e "$unfinished" ] || find "$PGDATA" -mindepth 1 -delete
mkdir -p "$PGDATA"
if [ -z "$(ls -A "$PGDATA")" ]; then
    touch "$unfinished" && sync "$volume"
    # The superuser has no password: it logs in through the socket, within the container.
    initdb --username=postgres --encoding=UTF8 --auth-local=trust --auth-host=scram-sha-256 --no-instructions
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    sync "$PGDATA/pg_hba.conf" && rm "$unfinished" && sync "$volume"
fi

# On its socket only: no client connects before the role is set up.
postgres "$@" --listen_addresses= &
server=$!
trap 'kill -INT "$server"; wait "$server"; exit 143' INT TERM
until pg_isready --quiet; do
    kill -0 "$server" # fails, and so ends this script, if the server could not start
    sleep 0.1
done
# The role is not a superuser, owns its database only, and has the password that create-credentials.sh wrote.
psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username postgres --dbname postgres <<'EOF'
\set password `sed -n 's/^password=//p' "$PGSERVICEFILE"`
\set database `sed -n 's/^dbname=//p' "$PGSERVICEFILE"`
SELECT 'CREATE ROLE importer' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'importer') \gexec
ALTER ROLE importer LOGIN PASSWORD :'password';
SELECT format('CREATE DATABASE %I', :'database')
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
ALTER DATABASE :"database" OWNER TO importer;
REVOKE ALL ON DATABASE :"database", postgres, template1 FROM PUBLIC;
EOF
kill -INT "$server"
wait "$server"
exec postgres "$@"
