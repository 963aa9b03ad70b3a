#!/bin/busybox sh
# The first process of a VM of Ferry's tests (crates/ferry/tests/vms): it writes numbered records to a file system on its
# volume, and says on its console which of them are durable.
export PATH=/bin
busybox mkdir -p /proc /sys /dev /mnt /etc
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk crc16 mbcache jbd2 crc32c_generic \
  ext4 evdev button virtio_console failover net_failover virtio_net qemu_fw_cfg; do
  [ -e /$module.ko ] && insmod /$module.ko
done
say() { echo "VM $*"; }
# Its agent, if there is a port for it; it shuts down by a program of that name.
mkdir -p /sbin /run
printf '#!/bin/sh\necho "VM shut down by $0" >/dev/console\n: >/stop\n' >/sbin/shutdown
chmod +x /sbin/shutdown
for port in /sys/class/virtio-ports/*; do
  [ "$(cat $port/name 2>/dev/null)" = org.qemu.guest_agent.0 ] && /programs/qemu-ga -m virtio-serial -p /dev/${port##*/} -t /run &
done
# Its network, if it has one: it tells which boot of it this is, at port 80.
if [ -e /sys/class/net/eth0 ]; then
  ip link set lo up
  ip link set eth0 up
  ip -6 addr add "$(cat /sys/firmware/qemu_fw_cfg/by_name/opt/ferry/address/raw)/128" dev eth0
  ip -6 route add default via fe80::1 dev eth0
  mkdir -p /www
  cp /proc/sys/kernel/random/boot_id /www/boot
  httpd -p "[::]:80" -h /www
fi

until [ -b /dev/vda ]; do sleep 1; done
say "serial $(cat /sys/block/vda/serial)"
# A file system is made where nothing is.
[ "$(dd if=/dev/vda bs=1k count=64 2>/dev/null | tr -d '\0' | wc -c)" = 0 ] && /programs/mke2fs -q -t ext4 /dev/vda
mount -t ext4 /dev/vda /mnt || say "no file system"
# Somebody presses the power button.
for keys in /dev/input/event*; do
  (dd if=$keys of=/dev/null bs=24 count=1 2>/dev/null && : >/stop) &
done
touch /mnt/records
record=$(wc -l </mnt/records)
say "up $(cat /proc/sys/kernel/random/boot_id) $record"
until [ -e /stop ]; do
  record=$((record + 1))
  # Which boot of it this is, and what it takes for the time.
  [ $((record % 4)) = 0 ] && say "is $(cat /proc/sys/kernel/random/boot_id) at $(date +%s)"
  echo $record | dd of=/mnt/records oflag=append conv=notrunc,fsync 2>/dev/null && say "kept $record"
done
umount /mnt && say "bye"
poweroff -f
