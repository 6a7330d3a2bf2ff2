#!/bin/sh
# Run once, by the postgres image, after it has made the cluster: the importer's role, which is no superuser and owns
# its database and no other, with the password that create-credentials.sh wrote.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'EOF'
\set password `sed -n 's/^password=//p' "$PGSERVICEFILE"`
CREATE ROLE importer LOGIN PASSWORD :'password' NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
ALTER DATABASE :"DBNAME" OWNER TO importer;
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
EOF
