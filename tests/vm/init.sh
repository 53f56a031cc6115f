#!/bin/busybox sh
# The guest's first process: mounts what is needed, loads modules, runs the scenario and powers off.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ip link set lo up
for module in virtio_pci 9pnet_virtio 9p; do
    while read -r path; do insmod "$path" 2> /dev/null; done < "/modules/$module.order"
done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 host /host
mkdir -p /tmp/out
sh /scenario.sh 2>&1 | tee /tmp/out/scenario.log
dmesg > /tmp/out/dmesg.log
cp -r /tmp/out/* /host/out/
sync
poweroff -f
