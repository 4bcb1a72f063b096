#!/bin/sh
# Makes the role and the database of the server when the data are new. PostgreSQL's image runs it.
set -eu

psql --set=ON_ERROR_STOP=1 --no-psqlrc --username postgres --dbname postgres \
    --set=password="${DATABASE_PASSWORD:?}" <<'SQL'
CREATE ROLE parley LOGIN PASSWORD :'password';
CREATE DATABASE parley OWNER parley;
SQL
