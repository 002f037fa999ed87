# Prepares a root for its packages: mmdebstrap runs this before it unpacks any. $1 is the root.
set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d"
# The initial file system holds what finds the disk, and nothing else.
printf 'MODULES=list\n' >"$1/etc/initramfs-tools/conf.d/guest"
