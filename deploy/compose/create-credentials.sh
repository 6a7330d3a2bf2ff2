#!/bin/sh
# Writes a libpq service file with a random password, unless it exists: create-credentials.sh FILE
# https://www.postgresql.org/docs/current/libpq-pgservice.html
set -eu
[ ! -s "$1" ] || exit 0
cat > "$1.new" <<EOF
[importer]
host=postgres
dbname=taxi
user=importer
password=$(od -A n -t x1 -N 32 /dev/urandom | tr -d ' \n')
EOF
chmod 0444 "$1.new" # two users in two containers read it; the volume is mounted nowhere else
mv "$1.new" "$1"
