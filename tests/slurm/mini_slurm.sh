#!/usr/bin/env bash
# A Slurm of our own on 127.0.0.1, without a database and without systemd: Debian's slurm-wlm and munge are enough.
#   mini_slurm.sh start FOLDER [nodes=1] [cpus=4] [port=26817]      mini_slurm.sh stop FOLDER
# Clients: export SLURM_CONF=FOLDER/slurm.conf PATH=<here>/bin:$PATH   (bin/sacct stands in for the database)
# Partitions: low (default) is pre-empted and requeued by high at once; `grace` has as long as GraceTime to leave.
set -euo pipefail
home=${2:?usage: mini_slurm.sh start|stop FOLDER}; nodes=${3:-1}; cpus=${4:-4}; port=${5:-26817}
export SLURM_CONF=$home/slurm.conf PATH=$PATH:/usr/sbin
user=$(id -un)

start() {
  mkdir -p "$home"/{state,spool,log,run}; chmod 755 "$home"  # munged refuses parents that others may write into
  [ -f "$home/munge.key" ] || { head -c 1024 /dev/urandom > "$home/munge.key"; chmod 400 "$home/munge.key"; }
  # cred_expire: a requeued job waits for its credential to expire, two minutes by default
  # config_overrides: nodes may claim more CPUs than this machine has; MinJobAge: squeue knows ended jobs for an hour
  cat > "$SLURM_CONF" <<CONF
ClusterName=mini
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$home/run/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool/%n
SlurmctldPidFile=$home/run/slurmctld.pid
SlurmdPidFile=$home/run/slurmd-%n.pid
SlurmctldLogFile=$home/log/slurmctld.log
SlurmdLogFile=$home/log/slurmd-%n.log
SlurmdParameters=config_overrides
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
MinJobAge=3600
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
CONF
  local names=""
  for i in $(seq "$nodes"); do
    names="$names,n$i"
    echo "NodeName=n$i NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=$cpus RealMemory=4000" >> "$SLURM_CONF"
  done
  names=${names#,}
  cat >> "$SLURM_CONF" <<CONF
PartitionName=low Nodes=$names Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=grace Nodes=$names MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=$names MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
CONF
  printf 'CgroupAutomount=no\nCgroupPlugin=cgroup/v1\n' > "$home/cgroup.conf"
  munged --key-file="$home/munge.key" --socket="$home/run/munge.socket" --pid-file="$home/run/munged.pid" \
    --log-file="$home/log/munged.log" --seed-file="$home/run/munge.seed"
  for _ in $(seq 50); do [ -S "$home/run/munge.socket" ] && break; sleep 0.1; done
  slurmctld -f "$SLURM_CONF"
  for i in $(seq "$nodes"); do slurmd -N "n$i" -f "$SLURM_CONF"; done
  local up=0
  for _ in $(seq 100); do
    up=$(sinfo -h -N -p low -t idle -o %N 2>/dev/null | wc -l)
    [ "$up" = "$nodes" ] && return
    sleep 0.2
  done
  echo "only $up of $nodes nodes came up; see $home/log" >&2
  return 1
}

stop() {
  scancel --user="$user" 2>/dev/null || true
  for _ in $(seq 50); do [ -z "$(squeue -h -t running,completing 2>/dev/null)" ] && break; sleep 0.2; done
  for file in "$home"/run/slurmd-*.pid "$home"/run/slurmctld.pid "$home"/run/munged.pid; do
    [ -f "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
  done
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  *) echo "usage: $0 start|stop FOLDER" >&2; exit 2 ;;
esac
