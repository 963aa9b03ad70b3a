#!/bin/busybox sh
# The first process of the guest: an agent, and machines with limits, where control groups are of version 2. Each line that begins
# with LAB is read by xtask/src/lab/seen.rs; a row is something that was seen to hold.
PATH=/bin:/programs
export PATH
if [ "$1" != again ]; then
  # A runtime turns its container's root, which the first root of a kernel does not let it do.
  busybox mkdir -p /whole
  busybox mount -t tmpfs -o size=900m tmpfs /whole
  for there in /*; do [ $there = /whole ] || busybox cp -a $there /whole/; done
  exec busybox switch_root /whole /init again
fi
busybox mkdir -p /proc /sys /dev /tmp /state /etc
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys && mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o size=500m tmpfs /state && mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
[ -e /overlay.ko ] && insmod /overlay.ko

row() { echo "LAB row $1 | $2"; }
fail() {
  echo "LAB failed $*"
  tail -n 20 /tmp/agent.log /state/machines/*/machine.log
  dmesg | tail -n 20
  reboot -f
}
until_true() { # what, then a command
  what=$1 tries=0
  shift
  until "$@"; do
    tries=$((tries + 1))
    [ $tries = 1200 ] && fail "waited in vain until $what"
    usleep 50000
  done
}
ferry() { FERRY_AGENT=http://127.0.0.1:7433 NO_COLOR=1 /programs/ferry "$@"; }
answers() { ferry machine list >/tmp/list 2>&1; }
fact() { ferry machine show "$1" 2>/dev/null | sed -n "s/^$2  *//p"; }
has_ended() { [ "$(fact "$1" 'last exit')" != - ]; }
has_processes() { # where in the group, how many
  [ -e "$group/$1" ] && [ "$(wc -l <"$group/$1/cgroup.procs")" -ge "$2" ]
}
is_gone() { [ ! -e "$group" ]; }

cat >/etc/ferry.toml <<TOML
name = "a"
state_dir = "/state"
listen = "127.0.0.1:7433"
export_listen = "127.0.0.1:0"
TOML
/programs/ferry agent --config /etc/ferry.toml >>/tmp/agent.log 2>&1 &
until_true "the agent answers" answers
doctor=$(ferry doctor --state-dir /state | grep '^ok  *cgroups: ') || fail "the doctor finds no control groups"
row "doctor" "${doctor##*cgroups: }"
drivers=$(ferry worker show | sed -n 's/^drivers  *//p')
case $drivers in "process (limits memory cpu pids); oci (runc, limits memory cpu pids);"*) ;; *) fail "drivers: $drivers" ;; esac
row "what machines run with" "process and runc, both with limits of memory, cpu and pids"

# A machine of a driver: waits, then grows until it is killed.
create() { # name, what its file says beside
  cat >/tmp/$1.toml <<TOML
name = "$1"
restart = "never"
command = ["/bin/sh", "-c", "echo up; while [ ! -e /tmp/go ]; do usleep 20000; done; x=0123456789abcdef; while :; do x=\$x\$x; done"]
$2
TOML
  ferry machine create -f /tmp/$1.toml >/tmp/said 2>&1 || fail "$1: $(cat /tmp/said)"
  group=/sys/fs/cgroup/ferry-$(fact "$1" id)
}
limits='[limits]
memory = "48MiB"
cpus = 0.5
pids = 20'
is_kept() { # name
  told=$(cat "$group/memory.max" "$group/cpu.max" | tr '\n' ' ')
  [ "$told" = "50331648 50000 100000 " ] || fail "$1 has memory.max and cpu.max $told"
  row "$1: memory.max, cpu.max" "$told"
}
ends_by_its_limit() { # name
  until_true "$1 has ended" has_ended "$1"
  ended=$(fact "$1" 'last exit')
  case $ended in "killed, since it wanted more memory than its limit"*) row "$1: last exit" "$ended" ;; *) fail "$1 ended: $ended" ;; esac
  until_true "the group of $1 is gone" is_gone
  rm -f /tmp/go
}

create plain "$limits"
is_kept plain
[ "$(cat "$group/pids.max")" = 20 ] || fail "pids.max"
until_true "the machine is in its group" has_processes inside 1
row "plain: pids.max, and its processes are in its group" 20
touch /tmp/go
ends_by_its_limit plain

create apart "isolated = true
$limits"
is_kept apart
until_true "keeper, init and machine are in the group of apart" has_processes inside 3
row "apart: processes in its group, the keeper among them" "at least 3"
touch /tmp/go
ends_by_its_limit apart

# A container sees its own /tmp.
mkdir -p /tmp/bundle/rootfs/bin /tmp/bundle/rootfs/tmp
cp /bin/busybox /tmp/bundle/rootfs/bin/busybox
for tool in sh usleep; do ln -s busybox /tmp/bundle/rootfs/bin/$tool; done
(cd /tmp/bundle && runc spec && sed -i 's/"readonly": true/"readonly": false/' config.json) || fail "no bundle"
create contained "driver = \"oci\"
$limits
[oci]
bundle = \"/tmp/bundle\""
is_kept contained
is_up() { ferry machine logs "$1" | grep -q up; }
until_true "the container runs" is_up contained
[ "$(cat "$group/container/pids.max")" = 20 ] || fail "the runtime does not keep pids.max"
row "contained: pids.max of the runtime's group" 20
first=$(head -n 1 "$group/container/cgroup.procs")
touch "/proc/$first/root/tmp/go" || fail "the container's /tmp is not to be reached"
ends_by_its_limit contained

# One that only works is throttled, and its group goes with it when it is stopped.
cat >/tmp/busy.toml <<TOML
name = "busy"
command = ["/bin/sh", "-c", "while :; do :; done"]
stop_signal = "KILL"
[limits]
cpus = 0.25
TOML
ferry machine create -f /tmp/busy.toml >/tmp/said 2>&1 || fail "busy: $(cat /tmp/said)"
group=/sys/fs/cgroup/ferry-$(fact busy id)
is_throttled() { [ "$(sed -n 's/^nr_throttled //p' "$group/cpu.stat")" -ge 10 ]; }
until_true "busy is throttled" is_throttled
row "busy: throttled in so many periods" "$(sed -n 's/^nr_throttled //p' "$group/cpu.stat") of $(sed -n 's/^nr_periods //p' "$group/cpu.stat")"
ferry machine stop busy >/dev/null || fail "busy does not stop"
until_true "the group of busy is gone" is_gone
row "busy: stopped" "its group is gone"
left=$(find /sys/fs/cgroup -name 'ferry-*' | wc -l)
[ "$left" = 0 ] || fail "groups are left: $(find /sys/fs/cgroup -name 'ferry-*')"
row "groups left when all have ended" "$left"
echo "LAB done"
poweroff -f
