#!/bin/sh
# Write .env for compose.yaml, readable by its owner alone, with new random secrets: ./make_env.sh mlflow.example.org
set -eu
host=${1:?name the host under which the server is reached, such as mlflow.example.org}
file=$(dirname "$0")/.env
if [ -e "$file" ]; then
    echo "$file exists: its passwords are those of the database; delete it only together with the volumes" >&2
    exit 1
fi
secret() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}
umask 077
cat >"$file" <<END
SERVER_NAME=$host
COMPOSE_PROFILES=objects,tls
POSTGRES_PASSWORD=$(secret)
MLFLOW_AUTH_ADMIN_PASSWORD=$(secret)
MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret)
AWS_ACCESS_KEY_ID=mlflow
AWS_SECRET_ACCESS_KEY=$(secret)
END
echo "wrote $file; the administrator is \"admin\" with MLFLOW_AUTH_ADMIN_PASSWORD"
