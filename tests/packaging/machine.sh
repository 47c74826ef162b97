#!/bin/bash
# Boots this machine's own Debian once more, as a container: systemd, control groups, processes,
# mounts, host name and network (loopback) of its own, on a copy of the file system that is forgotten
# at the end. Run by machine.rs under unshare; DIRECTORY/payload is /mnt in there.
set -eu
directory=$1
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$directory/system"
cd "$directory/system"
mkdir upper work root
# Only the root file system itself: nothing that is mounted below it.
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
cd root
mount -t proc proc proc
# As in any container: what is the kernel's is not this systemd's to set.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
    touch dev/$node
    mount --bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount --bind "$directory/payload" mnt
# None of what this machine serves: a target of our own, and no PostgreSQL, no pgvigil.
rm -rf etc/pgvigil var/lib/pgvigil var/log/journal
for place in etc/postgresql var/lib/postgresql; do
    mkdir -p $place
    mount -t tmpfs -o mode=755 tmpfs $place
    chown postgres: $place
done
cat >etc/systemd/system/lab.target <<'END'
[Unit]
Requires=sysinit.target dbus.socket
After=sysinit.target dbus.socket
AllowIsolate=yes
END
for unit in systemd-networkd-wait-online NetworkManager-wait-online ifupdown-wait-online; do
    ln -sf /dev/null etc/systemd/system/$unit.service
done
hostname db1
ip link set lo up
mkdir host
# In a chroot the old root is no mount, and cannot be put aside.
enter=
if pivot_root . host; then
    umount -l /host
else
    enter="chroot ."
fi
# shellcheck disable=SC2086
exec $enter env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=lab.target --log-target=journal --show-status=no
