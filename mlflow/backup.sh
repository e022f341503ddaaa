#!/bin/sh
# Dump the database that PGHOST, PGUSER, PGDATABASE and PGPASSWORD name into a folder, and delete dumps older than 30 days.
set -eu
folder=${1:?name the folder for the dumps}
file=$folder/mlflow-$(date -u +%Y%m%dT%H%M%SZ).dump
umask 077
pg_dump --format=custom --file="$file.part"
# A dump that can be listed is whole.
pg_restore --list "$file.part" >/dev/null
mv "$file.part" "$file"
find "$folder" -name 'mlflow-*.dump' -mtime +30 -delete
echo "$file"
