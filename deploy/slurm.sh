#!/usr/bin/env bash
# A study on Slurm: sbatch deploy/slurm.sh study.yaml, from the root of a checkout whose .venv all nodes see (docs/cluster.md).
# VENV=.venv-gpu sbatch … takes the environment in another folder.
# Ray starts on the nodes of the job, the study runs, and both end with it. Near the end of the time limit the study is asked
# to stop at a commit point, and the job goes back into the queue; the next start does only what is missing.
#SBATCH --job-name=inoc-ray
# Adapt these to your machines, and add what your site asks for: --partition, --account, --qos, --mem.
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
# These belong to the script.
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=inoc-ray-%j.log
set -euo pipefail

study=${1:?say which study: sbatch deploy/slurm.sh study.yaml}
# Slurm runs a copy of this file, so its own folder says nothing.
bin=$(cd "$SLURM_SUBMIT_DIR" && cd "${VENV:-.venv}/bin" && pwd)
export PATH="$bin:$PATH"
# `srun` takes the environment along to the other nodes.
# shellcheck source=deploy/secrets.sh
. "$SLURM_SUBMIT_DIR/deploy/secrets.sh"
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
# This script runs on the first node, the head. The port follows from the job, as two jobs may share a machine.
ip=$(getent ahostsv4 "$(scontrol show node "$SLURMD_NODENAME" | grep -oP 'NodeAddr=\K\S+')" | awk '{print $1; exit}')
# What a machine calls itself is often its loopback address.
case "$ip" in 127.*) ip=$(hostname -I | awk '{print $1}') ;; esac
address="$ip:$((20000 + SLURM_JOB_ID % 10000))"
# Slurm kills what is left 30 s after it told a job to end (KillWait); Ray alone would take as long to drain its nodes.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
# Ray on one machine with all its processors and these options of `ray start`, and an end that leaves no process and no folder of it.
# shellcheck disable=SC2016
on_machine='
# Below /tmp, because the paths of sockets must be short.
folder=/tmp/inoc-ray-job-$SLURM_JOB_ID
# What jobs left here that were killed. (inoc-ray-… alone are folders of commands, which may be at work.)
if listed=$(squeue --noheader --format=%A --user="$(id -un)"); then
    for left in /tmp/inoc-ray-job-*; do
        [ -O "$left" ] && [[ " ${listed//[[:space:]]/ } " != *" ${left##*-} "* ]] && rm -rf "$left"
    done
fi
rm -rf "$folder"
ray start --block "$@" --num-cpus="$SLURM_CPUS_ON_NODE" --temp-dir="$folder" &
ray=$!
finish() {
    trap "" TERM
    kill "$ray" 2>/dev/null
    for _ in $(seq 30); do kill -0 "$ray" 2>/dev/null || break; sleep 0.1; done
    # Whatever has a file open there would write on.
    for _ in $(seq 20); do
        users=$(find /proc/[0-9]*/fd -lname "$folder/*" 2>/dev/null | cut -d/ -f3 | sort -u)
        [ -n "$users" ] && kill -KILL $users 2>/dev/null
        rm -rf "$folder" 2>/dev/null
        [ -z "$users" ] && [ ! -e "$folder" ] && break
        sleep 0.2
    done
}
trap finish EXIT
trap exit TERM
wait "$ray"
'
run=
requeue=
there=
finish() {
    trap '' USR1 TERM
    # What runs in the background: Ray, and the study if it still does.
    for pid in $(jobs -p); do
        [ "$pid" = "$there" ] || kill "$pid" 2>/dev/null || true
    done
    # Ray on the other machines: `srun`, if it were told to end, would have it killed, and its folders would stay.
    for _ in $(seq 20); do
        if [ -z "$there" ] || ! kill -0 "$there" 2>/dev/null; then break; fi
        scancel --signal=TERM "$SLURM_JOB_ID.0" 2>/dev/null || true
        sleep 1
    done
    [ -z "$there" ] || kill "$there" 2>/dev/null || true
    wait
}
trap finish EXIT
# shellcheck disable=SC2329  # called by the traps
stop() {
    if [ -z "$run" ]; then
        echo "stopped before the study ran; if that was the time limit, raise --time"
        exit 143
    fi
    kill -TERM "$run" 2>/dev/null || true
}
# The time limit comes near: stop, and go on later.
trap 'requeue=yes; stop' USR1
# Somebody cancels the job: stop.
trap stop TERM

bash -c "$on_machine" bash --head --node-ip-address="$ip" --port="${address##*:}" --include-dashboard=false \
    --resources='{"inoc_ray_driver": 10000}' &
others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
    # On every node but this one, with all that it has.
    srun --nodes="$others" --ntasks="$others" --exclude="$SLURMD_NODENAME" --cpu-bind=none --mem=0 \
        bash -c "$on_machine" bash --address="$address" &
    there=$!
fi

export RAY_ADDRESS=$address
# In the background, since a signal waits for a program in the foreground.
python - "$SLURM_JOB_NUM_NODES" <<'PYTHON' &
import socket
import sys
import time
from os import environ

import ray

wanted, end = int(sys.argv[1]), time.monotonic() + 300
host, _, port = environ["RAY_ADDRESS"].rpartition(":")
found = 0
while found < wanted:
    if time.monotonic() > end:
        sys.exit(f"{found} of {wanted} nodes have joined after 5 minutes; the lines of `ray start` above may say why.")
    time.sleep(1)
    if not ray.is_initialized():
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))):
                continue
        ray.init(log_to_driver=False, logging_level="error")
    found = sum(node["Alive"] for node in ray.nodes())
PYTHON
wait $!

inoc-ray run "$study" &
run=$!
code=0
wait "$run" || code=$?
# A signal ends `wait` before the run has ended, which takes up to 10 seconds and says what it kept.
while kill -0 "$run" 2>/dev/null; do
    code=0
    wait "$run" || code=$?
done
finish
if [ -n "$requeue" ] && [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
