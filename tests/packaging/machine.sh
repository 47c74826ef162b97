#!/bin/bash
# Boots this machine's own Debian once more, as a container: systemd, control groups, processes,
# mounts, host name and network (loopback) of its own, on a copy of the file system that is forgotten
# at the end. Run by machine.rs under unshare: machine.sh DIRECTORY NAME; DIRECTORY/payload is /mnt in
# there.
set -eu
directory=$1 name=$2
# The mount namespace's root, which is not / where this machine is a chroot itself.
nsenter --mount=/proc/self/ns/mnt mount --make-rprivate /
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
echo "$name" >etc/hostname
ip link set lo up
mkdir host
# In the place of that root, not of a chroot: a service has a mount namespace of its own, and what
# another one shows of it in /proc is seen from there.
exec nsenter --mount=/proc/self/ns/mnt --wd=. sh -c 'pivot_root . host && umount -l /host &&
    exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --unit=lab.target --log-target=journal --show-status=no'
