#!/bin/busybox sh
# The first process of a guest: sets up what the tests expect of a machine, runs each test binary under a time
# limit, says on the second serial port what came of it, and powers off.
#
# Lines for the host begin with "@@vm"; transcript.rs reads them. Everything else on that port is what the
# tests print. The kernel has the first port to itself.

PATH=/bin:/usr/bin
export PATH
/bin/busybox mkdir -p /usr/bin /proc /sys /dev /tmp /run /root /var/tmp
/bin/busybox --install -s /usr/bin
mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS1 2>&1
# Bytes as they are: no carriage returns, no tabs made spaces.
stty raw -echo -F /dev/ttyS1

tell() {
    # The line before may be unfinished.
    printf '\n@@vm %s\n' "$*"
}

must() {
    "$@" || tell "broken $*"
}

must mount -t proc proc /proc
must mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
must mount -t devpts devpts /dev/pts
must mount -t tmpfs tmpfs /dev/shm
must mount -t tmpfs tmpfs /tmp
must mount -t tmpfs tmpfs /run
must mount -t cgroup2 cgroup2 /sys/fs/cgroup
must mount -t bpf bpf /sys/fs/bpf
must mount -t tracefs tracefs /sys/kernel/tracing
chmod 1777 /tmp /dev/shm

for module in /modules/*.ko; do
    [ ! -e "$module" ] || must insmod "$module"
done

must ip link set lo up
must hostname guest
# Not the locked memory: enforcer raises that itself, and 5.10 is where it shows if it does not.
ulimit -n 65536
echo 1 >/proc/sys/kernel/panic_on_oops
# Ping sockets for everybody, as distributions have it.
echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range

. /run-tests.sh
# Setting the port waits until what was written has left it.
stty raw -echo -F /dev/ttyS1
poweroff -f
