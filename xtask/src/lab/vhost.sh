#!/bin/busybox sh
# The first process of the guest. Each line that begins with LAB is looked for by xtask/src/lab/vhost.rs.
export PATH=/bin
busybox mkdir -p /proc /sys /dev
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
  [ -e /$module.ko ] && insmod /$module.ko
done
say() { echo "LAB $*"; }
pattern() { dd if=/pattern bs=1M skip="$1" count="$2" 2>/dev/null; }
disk() { dd if=/dev/vda bs=1M skip="$1" count="$2" iflag=direct 2>/dev/null; }

until [ -b /dev/vda ]; do sleep 1; done
vda=/sys/block/vda
say "queues $(ls $vda/mq | wc -l)"
say "serial $(cat $vda/serial)"
say "bytes $(($(cat $vda/size) * 512))"
say "cache $(cat $vda/queue/write_cache)"

dd if=/dev/urandom of=/pattern bs=1M count=16 2>/dev/null
dd if=/pattern of=/dev/vda bs=1M seek=4 oflag=direct conv=fsync 2>/dev/null && say written
disk 4 16 | cmp - /pattern && say read back
blkdiscard -o $((8 << 20)) -l $((4 << 20)) /dev/vda && say discarded
[ "$(disk 8 4 | tr -d '\0' | wc -c)" = 0 ] && say zero
pattern 8 8 >/rest
disk 12 8 | cmp - /rest && say the rest is there

# Small writes from two sides at once; meanwhile the volume server is killed and started again.
many() { # first block, count
  n=0
  while [ $n -lt "$2" ]; do
    at=$(($1 + n * 8))
    dd if=/pattern of=/dev/vda bs=4k skip=$at seek=$((16384 + at)) count=8 oflag=direct 2>/dev/null || say failed $at
    n=$((n + 1))
    [ $((n % 20)) = 0 ] && say "step $n"
  done
}
many 0 200 &
many 1600 200
wait
disk 64 12 >/many
pattern 0 12 | cmp - /many && say nothing was lost
say "read $(dd if=/dev/vda of=/dev/null bs=1M count=64 iflag=direct 2>&1 | tail -1)"
say done
reboot -f
