#!/bin/busybox sh
# The first process of the guest: an agent, its volumes, and block devices of the kernel's ublk driver. Each line that
# begins with LAB is read by xtask/src/lab/ublk.rs; a row is something that was seen to hold.
PATH=/bin
busybox mkdir -p /proc /sys /dev /tmp /state /mnt /etc
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys && mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o size=900m tmpfs /state && mount -t tmpfs tmpfs /tmp
ip link set lo up
insmod /ublk_drv.ko
insmod /loop.ko

row() { echo "LAB row $1 | $2"; }
fail() {
  echo "LAB failed $*"
  tail -n 20 /tmp/agent.log /state/volumes/*/server.log
  dmesg | tail -n 20
  reboot -f
}
now() { cut -d' ' -f1 /proc/uptime; }
until_true() { # what, then a command
  what=$1 tries=0
  shift
  until "$@"; do
    tries=$((tries + 1))
    [ $tries = 1200 ] && fail "waited in vain until $what"
    usleep 50000
  done
}
random() { dd if=/dev/urandom of="$1" bs=64k count="$2" 2>/dev/null; }
allocated() { du -k "$(dir_of data)/data" | cut -f1; }

ferry() { FERRY_AGENT=http://127.0.0.1:7433 NO_COLOR=1 /programs/ferry "$@"; }
answers() { ferry volume list >/tmp/list 2>&1; }
agent() {
  /programs/ferry agent --config /etc/ferry.toml >>/tmp/agent.log 2>&1 &
  agent=$!
  until_true "the agent answers" answers
}
fact() { ferry volume show "$1" 2>/dev/null | sed -n "s/^$2  *//p"; }
pid_of() { fact "$1" server | sed -n 's/^running, pid \([0-9]*\).*/\1/p'; }
dir_of() { fact "$1" guest | sed 's/.*socket=\(.*\)\/guest.sock/\1/;s/%40/@/'; }
runs_anew() { # volume, its server's former pid
  pid=$(pid_of "$1")
  [ -n "$pid" ] && [ "$pid" != "$2" ]
}

cat >/etc/ferry.toml <<TOML
name = "a"
state_dir = "/state"
listen = "127.0.0.1:7433"
export_listen = "127.0.0.1:0"
TOML
agent
doctor=$(ferry doctor --state-dir /state | grep '^ok  *ublk: ') || fail "the doctor finds no ublk"
row "doctor" "${doctor##*ublk: }"
ferry machine create m --volume data=96MiB --stopped -- /bin/true >/dev/null || fail "no volume"
dev=$(ferry volume attach data) || fail "nothing is attached"
[ "$(ferry volume attach data)" = "$dev" ] || fail "a second wish makes another device"
case $dev in /dev/ublkb*) row "ferry volume attach chooses" "$dev" ;; *) fail "attach chooses $dev" ;; esac
queue=/sys/block/${dev#/dev/}/queue
shape=$(cd "$queue" && cat logical_block_size physical_block_size write_cache fua | tr '\n' ' ')
[ "$shape" = "512 4096 write back 1 " ] || fail "its shape is $shape"
row "sector, block, cache, FUA" "$shape"

/programs/mke2fs -q -t ext4 -b 4096 -E nodiscard "$dev" || fail mke2fs
mount -t ext4 "$dev" /mnt || fail mount
random /tmp/kept 256
cp /tmp/kept /mnt/kept && sync && echo 3 >/proc/sys/vm/drop_caches
cmp /tmp/kept /mnt/kept || fail "what was written is not read back"
row "ext4: made, mounted, 16 MiB written, synced, read back" "the same"

cp /tmp/kept /mnt/gone && sync
before=$(allocated)
rm /mnt/gone && sync && /programs/fstrim /mnt || fail fstrim
after=$(allocated)
[ $((before - after)) -ge 16000 ] || fail "allocated $before KiB before fstrim, $after KiB after"
row "fstrim: allocated by the store, before and after" "$before KiB, $after KiB"

# Files of 16 KiB, each flushed before it counts; the longest time that one took.
many() {
  n=0 longest=0 last=$(now)
  while [ ! -e /tmp/enough ]; do
    random /tmp/piece 1
    dd if=/tmp/piece of=/tmp/f$n bs=16k count=1 2>/dev/null
    dd if=/tmp/f$n of=/mnt/f$n bs=4k conv=fsync 2>/dev/null || echo $n >>/tmp/errors
    n=$((n + 1)) this=$(now)
    longest=$(echo "$longest $last $this" | awk '{ d = $3 - $2; print (d > $1 ? d : $1) }')
    last=$this
    echo "$n $longest" >/tmp/progress.new && mv /tmp/progress.new /tmp/progress
  done
}
written() { cut -d' ' -f1 /tmp/progress; }
written_more() { [ "$(written)" -gt "$1" ]; }
echo 0 0 >/tmp/progress
many &
writer=$!
dd if=/dev/zero of=/mnt/stream bs=64k count=500 conv=fsync 2>/tmp/stream &
stream=$!
kills=0
while [ $kills -lt 5 ]; do
  until_true "the writer goes on" written_more $(($(written) + 3))
  server=$(pid_of data)
  kill -9 "$server" || fail "there is no server to kill"
  kills=$((kills + 1))
  until_true "the server runs again" runs_anew data "$server"
done
until_true "the writer goes on" written_more $(($(written) + 3))
touch /tmp/enough
wait $writer
wait $stream || fail "a stream of writes: $(cat /tmp/stream)"
[ -e /tmp/errors ] && fail "writes failed: $(cat /tmp/errors)"
umount /mnt || fail umount
/programs/e2fsck -fn "$dev" >/tmp/fsck 2>&1 || fail "e2fsck: $(cat /tmp/fsck)"
mount -t ext4 "$dev" /mnt || fail mount
n=0
while [ $n -lt "$(written)" ]; do
  cmp /tmp/f$n /mnt/f$n || fail "file $n is not what was flushed"
  n=$((n + 1))
done
cmp /tmp/kept /mnt/kept || fail "what was written before is lost"
row "$kills times kill -9 of its server while files are written" "$n flushed files, none lost, no error"
row "the longest that one of them had to wait" "$(cut -d' ' -f2 /tmp/progress) s"
row "e2fsck after that" clean

ferry volume detach data >/tmp/refusal 2>&1 && fail "a mounted device was taken away"
grep -q "unmount it first" /tmp/refusal || fail "the refusal says $(cat /tmp/refusal)"
row "detach while it is mounted" "refused"

sectors() { [ "$(cat "/sys/block/${dev#/dev/}/size")" = "$1" ]; }
ferry volume grow data 128MiB >/dev/null || fail grow
case $doctor in
*"all that is needed"*)
  until_true "the device has grown" sectors 262144
  row "a volume that grows while it is mounted" "seen at once"
  umount /mnt
  ;;
*)
  umount /mnt
  ferry volume detach data >/dev/null && dev=$(ferry volume attach data)
  sectors 262144 || fail "the device has not grown"
  row "a volume that grows while it is mounted" "seen when attached again"
  ;;
esac

# Nobody is there: the guest waits. What is started again takes the device over.
kill -9 $agent "$(pid_of data)"
dd if=/tmp/kept of="$dev" bs=4k count=4 seek=24576 oflag=direct 2>/tmp/waiting &
writer=$!
agent
wait $writer || fail "a write that waited: $(cat /tmp/waiting)"
dd if="$dev" bs=4k count=4 skip=24576 iflag=direct 2>/dev/null >/tmp/back
dd if=/tmp/kept bs=4k count=4 2>/dev/null | cmp - /tmp/back || fail "a write that waited is lost"
row "agent and server killed, a write waits, the agent is started" "the write is done"

printf 'n\np\n1\n\n\nw\n' | fdisk "$dev" >/dev/null 2>&1
ferry volume detach data >/dev/null && dev=$(ferry volume attach data)
[ -e "${dev}p1" ] && fail "the host looks for partitions"
/programs/partx -a "$dev" || fail "partx finds no partition"
[ -e "${dev}p1" ] || fail "partx shows no partition"
/programs/partx -d "$dev"
row "partitions of the guest" "not looked for, shown by partx -a"

# Beside FUSE and a loop device, on the same volume.
fuse=$(ferry volume attach data --frontend fuse) || fail "no device of FUSE and loop"
took() { # a command; prints hundredths of a second
  begun=$(now)
  "$@"
  echo "$begun $(now)" | awk '{ printf "%d", ($2 - $1) * 100 }'
}
reads() { dd if="$1" of=/dev/null bs="$2" count="$3" skip="${4:-0}" iflag=direct 2>/dev/null; }
eight() {
  for part in 0 1 2 3 4 5 6 7; do
    reads "$1" 4k 200 $((part * 200)) &
    readers="$readers $!"
  done
  wait $readers
  readers=
}
beside() { # what, a command that takes the device; medians of three rounds
  rm -f /tmp/ublk /tmp/fuse
  what=$1
  shift
  for _ in 1 2 3; do
    took "$1" "$dev" $2 >>/tmp/ublk && echo >>/tmp/ublk
    took "$1" "$fuse" $2 >>/tmp/fuse && echo >>/tmp/fuse
  done
  row "$what: ublk, FUSE and loop" "$(sort -n /tmp/ublk | sed -n 2p)0 ms, $(sort -n /tmp/fuse | sed -n 2p)0 ms"
}
beside "500 reads of 4 KiB" reads "4k 500"
beside "8 readers, 200 reads of 4 KiB each" eight ""
beside "96 MiB read by 1 MiB" reads "1M 96"
ferry volume detach data --frontend fuse >/dev/null || fail "the device of FUSE and loop stays"

# A source that says nothing: the device is there all the same, and goes when it is told to.
dd if=/dev/urandom of="$dev" bs=1M count=80 oflag=direct 2>/dev/null
ferry volume detach data >/dev/null || fail detach
ferry worker pace --max 1MiB >/dev/null
ferry volume import copy --from "nbd+unix:///?socket=$(dir_of data)/guest.sock" >/dev/null || fail "no import"
source=$(pid_of data)
kill -STOP "$source"
dev=$(ferry volume attach copy) || fail "a clone whose source is silent has no device"
dd if="$dev" of=/dev/null bs=4k count=1 skip=$((79 * 256)) iflag=direct 2>/tmp/waiting &
reader=$!
asks() { [ "$(cat "/sys/block/${dev#/dev/}/inflight" | tr -s ' ')" = " 1 0" ]; }
until_true "the read waits" asks
begun=$(now)
ferry volume detach copy >/dev/null || fail "a device whose source is silent stays"
ended=$(now)
wait $reader && fail "a read of what is not there has ended well"
[ -e "$dev" ] && fail "$dev is still there"
kill -CONT "$source"
row "a read waits for a silent source, the device is detached" \
  "an error after $(echo "$begun $ended" | awk '{ print $2 - $1 }') s"

# What nobody serves any more goes with its volume.
dev=$(ferry volume attach copy) || fail attach
server=$(pid_of copy)
kill -9 $agent "$server"
agent
until_true "the server runs again" runs_anew copy "$server"
ferry volume delete copy >/dev/null || fail "the volume cannot be deleted"
[ -e "$dev" ] && fail "a device is left of a volume that is deleted"
row "a volume is deleted whose server was killed" "no device is left"
ferry volume attach data >/dev/null && ferry volume detach data >/dev/null || fail detach
ls /dev/ublkb* >/dev/null 2>&1 && fail "a device is left"
row "detach" "no device is left"
dmesg | grep -E "BUG|WARNING|blocked for more|Call Trace" && fail "the kernel complains"
echo "LAB done"
reboot -f
