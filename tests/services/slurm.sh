#!/usr/bin/env bash
# A Slurm of one node for tests, from Debian's packages (22.05) and without systemd, as root or as any user.
#
#   line=$(tests/services/slurm.sh start [FOLDER]) && eval "$line"   # the line: export SLURM_CONF=...
#   tests/services/slurm.sh stop FOLDER                              # cancels its jobs, ends its daemons
#
# FOLDER, a fresh one by default, holds configuration, state, sockets, pid files and logs. `start` on a FOLDER whose
# daemons run prints the line again; where some have ended it brings those back, on the same state and ports.
# All daemons are the caller's own: no MariaDB, munge or Slurm that the machine has is used, changed or ended.
#
# Two partitions share the node: jobs of `urgent` preempt those of `main`. With `--signal=USR2@30` the steps of a job
# in main get CONT and USR2 when it is preempted, without it CONT and TERM; after GraceTime Slurm kills and requeues.
set -euo pipefail

PATH="$PATH:/usr/sbin:/sbin" # where the daemons lie; not in every user's PATH
daemons=(munged mariadbd slurmdbd slurmctld slurmd)
wait_s=60

say() { echo "slurm.sh: $*" >&2; }
die() { say "$*" && exit 1; }

# The number in a pid file may be another process's by now: ours has the file's name in its environment.
is_up() {
    local pid file=$folder/run/$1.pid
    read -r pid <"$file" && grep -qzFx "SLURM_SH_PID_FILE=$file" "/proc/$pid/environ"
} 2>/dev/null
is_down() { ! is_up "$1"; }
# a process has no environment for a moment while it executes another program: down is who stays down
has_ended() {
    local tries
    for tries in 1 2 3 4; do
        if is_up "$1"; then return 1; fi
        sleep 0.3
    done
}
how_it_ended() { # only the shell that started it can tell
    local pid=0 status=0
    read -r pid <"$folder/run/$1.pid" && wait "$pid" || status=$?
    echo "exit status $status"
} 2>/dev/null
is_idle() { [[ $(sinfo -h -o %T) == idle* ]]; }
has_no_jobs() { [[ -z $(squeue -h) ]]; }
has_accounts() { [[ $(sacct -nPX -o State) == COMPLETED* ]]; }

# In a session of its own and off our stdout: a caller that captures that would wait for the daemon's end.
launch() {
    local name=$1
    if is_up "$name"; then return; fi
    SLURM_SH_PID_FILE=$folder/run/$name.pid setsid "${@:2}" </dev/null >>"$folder/log/$name.log" 2>&1 &
    echo $! >"$folder/run/$name.pid"
    # up to its exec it has our environment
    until is_up "$name" || ! kill -0 $! 2>/dev/null; do sleep 0.05; done
}

await() { # DAEMON WHAT COMMAND...: until COMMAND is true, which it will not be once the daemon has ended
    local why=""
    until "${@:3}" >/dev/null 2>&1; do
        if has_ended "$1"; then why="$1 ended before $2 ($(how_it_ended "$1"))"; fi
        if ((SECONDS >= wait_s)); then why="not within $wait_s s: $2"; fi
        if [[ -n $why ]]; then
            say "$why; the end of $folder/log/$1.log:"
            tail -n 15 "$folder/log/$1.log" >&2
            exit 1
        fi
        sleep 0.2
    done
}

retry() { # TENTHS_OF_S COMMAND...
    local left=$1
    until "${@:2}"; do
        if ((left-- <= 0)); then return 1; fi
        sleep 0.1
    done
}

stop() {
    local name pid
    # jobs outlive their daemons; with no controller to ask, scancel would only wait for one
    if is_up slurmctld && is_up slurmd; then
        squeue -h -o %A | xargs -r scancel || true
        retry 100 has_no_jobs || say "not all jobs have ended"
    fi
    # the last first: each tells its end to one that was started before it
    for name in slurmd slurmctld slurmdbd mariadbd munged; do
        if is_up "$name"; then
            pid=$(<"$folder/run/$name.pid")
            kill "$pid" || true
            retry 150 is_down "$name" || { say "$name ($pid) did not end in 15 s and is killed" && kill -KILL "$pid"; }
        fi
        rm -f "$folder/run/$name.pid"
    done
}

install_packages() {
    local name missing="" as_root=(env DEBIAN_FRONTEND=noninteractive)
    for name in "${daemons[@]}" srun mariadb-install-db; do
        if ! command -v "$name" >/dev/null; then missing+=" $name"; fi
    done
    if [[ -z $missing ]]; then return; fi
    if ((EUID)); then as_root=(sudo -n "${as_root[@]}"); fi
    "${as_root[@]}" true 2>/dev/null || die "neither root nor sudo -n, so cannot install what is missing:$missing"
    say "installing Debian's packages with$missing"
    "${as_root[@]}" apt-get update -qq >&2
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends slurm-wlm slurmdbd munge mariadb-server >&2
    SECONDS=0
}

answers() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

write_configuration() {
    local cpus memory_mib bind="" port=0
    # three that nobody answers on, below the range from which the kernel hands out ports
    while ((port == 0)) || answers "$port" || answers $((port + 1)) || answers $((port + 2)); do
        port=$((20000 + RANDOM % 4000 * 3))
    done
    cpus=$(nproc)
    memory_mib=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    # Slurm listens on every address, or on the one of the host's name: better if that is the loopback
    if [[ $(getent ahostsv4 "$host") == 127.0.0.1\ * ]]; then
        bind="CommunicationParameters=NoCtldInAddrAny,NoInAddrAny"
    fi
    # munged and slurmdbd refuse secrets that others can read
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key" && cat >"$folder/slurmdbd.conf") <<END
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
AuthInfo=socket=$folder/run/munge
SlurmUser=$user
PidFile=$folder/run/slurmdbd.own
StorageType=accounting_storage/mysql
StorageUser=$user
$bind
END
    # what is not here is Slurm's default, such as JobRequeue=1, MinJobAge=300 and MessageTimeout=10
    cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$user
SlurmdUser=$user
$bind
# cred_expire is also how long a requeued job is held; without it 120 s
AuthInfo=socket=$folder/run/munge,cred_expire=10
StateSaveLocation=$folder/slurmctld
SlurmdSpoolDir=$folder/slurmd
SlurmctldPidFile=$folder/run/slurmctld.own
SlurmdPidFile=$folder/run/slurmd.own
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$folder/run/munge
# nothing that needs cgroups: a container has none to give
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
PropagateResourceLimits=NONE
# a node that has less than it says here is not drained
SlurmdParameters=config_overrides
# --signal's warning comes at preemption too: submitit saves and requeues on it, and ignores TERM
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# else a job that names no memory takes all of it
DefMemPerCPU=$((memory_mib / cpus))
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
InactiveLimit=30
KillWait=5
SlurmdTimeout=30
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory_mib
PartitionName=main Nodes=$host Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=urgent Nodes=$host PriorityTier=10 PreemptMode=OFF
END
}

start() {
    local name num_up=0 fresh="" socket=$folder/database/socket
    for name in "${daemons[@]}"; do
        if is_up "$name"; then num_up=$((num_up + 1)); fi
    done
    if ((num_up == ${#daemons[@]})); then return; fi
    install_packages
    if [[ ! -e $folder/complete ]]; then
        [[ -z $(ls -A "$folder" 2>/dev/null) ]] || die "neither empty nor from a start that succeeded: $folder"
        fresh=yes
        trap stop EXIT # only this start knows what it began
        mkdir -p "$folder"/{run,log,slurmctld,slurmd,database}
        chmod 700 "$folder/database"
        chmod 755 "$folder" # other users' commands read slurm.conf and munge's socket
        write_configuration
        mariadb-install-db --no-defaults --datadir="$folder/database" --user="$user" --skip-test-db \
            --auth-root-authentication-method=socket --auth-root-socket-user="$user" \
            >"$folder/log/install.log" 2>&1 || die "mariadb-install-db failed, see $folder/log/install.log"
    fi
    launch munged munged --foreground --socket="$folder/run/munge" --key-file="$folder/munge.key" \
        --pid-file="$folder/run/munged.own" --seed-file="$folder/munge.seed"
    launch mariadbd mariadbd --no-defaults --datadir="$folder/database" --user="$user" --skip-networking \
        --socket="$socket" --pid-file="$folder/run/mariadbd.own" --innodb-lock-wait-timeout=900
    await munged "munge signs" munge --socket="$folder/run/munge" --no-input
    await mariadbd "MariaDB answers" mariadb-admin --no-defaults --socket="$socket" ping
    # slurmdbd has no setting for MariaDB's socket
    launch slurmdbd env MYSQL_UNIX_PORT="$socket" slurmdbd -D
    await slurmdbd "slurmdbd answers" sacctmgr -n list cluster
    if [[ -n $fresh ]]; then
        sacctmgr -iQ add cluster test >/dev/null
        sacctmgr -iQ add account test Cluster=test >/dev/null
        sacctmgr -iQ add user "$user" Account=test >/dev/null
    fi
    launch slurmctld slurmctld -D
    await slurmctld "slurmctld answers" scontrol ping
    launch slurmd slurmd -D
    if [[ -n $fresh ]]; then
        await slurmd "the node is idle" is_idle
        await slurmd "a job runs" timeout 20 srun --time=1 true
        await slurmdbd "its end is in the accounts" has_accounts # takes seconds at first, then less than one
        touch "$folder/complete"
        trap - EXIT
    fi
}

verb=${1:-} folder=${2:-} user=$(id -un) host=$(uname -n)
host=${host%%.*}
case $verb in
start) folder=$(realpath -m "${folder:-$(mktemp -d -t slurm.XXXXXX)}") ;;
stop) folder=$(realpath -e "$folder") || die "stop needs the FOLDER of a start" ;;
*) die "usage: slurm.sh start [FOLDER] | slurm.sh stop FOLDER" ;;
esac
# a socket's path may have 107 characters, and Slurm's configuration has no quotes
[[ $folder =~ ^[A-Za-z0-9/._+-]{1,80}$ ]] || die "FOLDER must be short and plain, and this is not: $folder"
export SLURM_CONF=$folder/slurm.conf
"$verb"
if [[ $verb == start ]]; then echo "export SLURM_CONF=$SLURM_CONF"; fi
