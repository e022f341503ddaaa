"""A Slurm cluster of two machines of `machines.py`: the real daemons of Debian's slurm-wlm, without cgroups or accounting."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence

from machines import Machine

FOLDER = "/tmp/slurm"
CONFIG = f"{FOLDER}/slurm.conf"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
GPUS = 8
_TEXT = """
ClusterName=test
SlurmctldHost={head.name}({head.ip})
AuthType=auth/munge
AuthInfo=socket={folder}/munge
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MailProg=/bin/true
MpiDefault=none
ReturnToService=2
KillWait=10
GresTypes=gpu
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that are not installed here."""
    return [name for name in PROGRAMS if shutil.which(name, path="/usr/bin:/usr/sbin") is None]


def start(machines: Sequence[Machine]) -> None:
    """Start Slurm on the machines, the controller on the first."""
    key = secrets.token_hex(64)
    nodes = "\n".join(f"NodeName={m.name} NodeAddr={m.ip} CPUs=2 Gres=gpu:{GPUS} State=UNKNOWN" for m in machines)
    config = _TEXT.format(head=machines[0], folder=FOLDER, nodes=nodes)
    names = "".join(f"{m.ip} {m.name}\n" for m in machines)
    for machine in machines:
        machine.run(f"mkdir -p {FOLDER}/state {FOLDER}/spool")
        # GPUs in name alone: /dev/null under other names.
        machine.run(f"for n in $(seq 0 {GPUS - 1}); do mknod {FOLDER}/gpu$n c 1 3; done")
        for name, text in (("slurm.conf", config), ("gres.conf", f"Name=gpu File={FOLDER}/gpu[0-{GPUS - 1}]\n"), ("key", key)):
            machine.write(f"{FOLDER}/{name}", text)
        machine.write(f"{FOLDER}/hosts", f"127.0.0.1 localhost\n{names}")
        machine.run(f"chmod 600 {FOLDER}/key && mount --bind {FOLDER}/hosts /etc/hosts")
        files = [f"--key-file={FOLDER}/key", f"--pid-file={FOLDER}/munged.pid", f"--seed-file={FOLDER}/seed"]
        machine.start("munged", "--foreground", "--force", f"--socket={FOLDER}/munge", *files)
        machine.until(f"munge -S {FOLDER}/munge -n")
    machines[0].start("slurmctld", "-D", SLURM_CONF=CONFIG)
    machines[0].until(f"SLURM_CONF={CONFIG} scontrol ping | grep -q UP")
    for machine in machines:
        machine.start("slurmd", "-D", SLURM_CONF=CONFIG)
    machines[0].until(f"test $(SLURM_CONF={CONFIG} sinfo -h -t idle -o %D) = {len(machines)}")
