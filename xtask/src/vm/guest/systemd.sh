# What a guest with systemd runs, as a service, when it is up: the tests, and then it powers off. The second serial
# port is for the host, as in init.sh.

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
# A terminal is what tests would colour their results for.
unset TERM
exec </dev/null >/dev/ttyS1 2>&1
stty raw -echo -F /dev/ttyS1

tell() {
    # The line before may be unfinished.
    printf '\n@@vm %s\n' "$*"
}

# What makes this guest worth its while.
[ -e /sys/fs/cgroup/cgroup.procs ] || tell "broken find version 2 alone at /sys/fs/cgroup"
[ -S /run/docker.sock ] || tell "broken find an engine at /run/docker.sock"
ulimit -n 65536

. /run-tests.sh
sync
systemctl poweroff --force --force
