# shellcheck shell=bash
# What every process of a cluster of virtual or bare machines has in its environment. Sourced before Ray starts and by login shells.
export PATH="$HOME/inoc_ray_venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token"
export RAY_USAGE_STATS_ENABLED=0
# Seconds that `ray job stop` gives a run to stop at a commit point before it is killed; Ray's own default is 3.
export RAY_JOB_STOP_WAIT_TIME_S=30
# Your own: HF_TOKEN, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, AWS_REGION, keys of judges …
# shellcheck source=deploy/secrets.sh
. "$HOME/inoc_ray/deploy/secrets.sh"
# Ray wants many open files: 65,536, or as many as this machine allows.
files=$(ulimit -Hn)
if [ "$files" = unlimited ] || [ "$files" -gt 65536 ]; then files=65536; fi
ulimit -Sn "$files"
unset files
