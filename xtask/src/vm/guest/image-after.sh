# Finishes a root when its packages are installed: mmdebstrap runs this last. $1 is the root.
set -eu
root=$1
etc=$root/etc

echo guest >"$etc/hostname"
printf '127.0.0.1 localhost guest\n::1 localhost guest\n' >"$etc/hosts"
rm -f "$etc/resolv.conf"
: >"$etc/resolv.conf"

# The tests come on the second disk, as an archive without a file system.
cat >"$etc/systemd/system/guest-tests.service" <<'UNIT'
[Unit]
Wants=docker.service
After=docker.service

[Service]
Type=exec
ExecStart=/bin/sh -c 'tar -xf /dev/vdb -C / && exec /bin/sh /guest.sh'
StandardError=journal+console

[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl --quiet enable guest-tests.service
# What takes time and serves nobody here. The engine of Podman that tests ask is one of their own.
for unit in serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-pstore.service podman.socket podman.service \
    podman-auto-update.timer podman-auto-update.service podman-restart.service systemd-networkd.service \
    systemd-binfmt.service systemd-journal-flush.service; do
    ln -sf /dev/null "$etc/systemd/system/$unit"
done

printf 'virtio_pci\nvirtio_blk\next4\n' >>"$etc/initramfs-tools/modules"
chroot "$root" update-initramfs -c -k all
