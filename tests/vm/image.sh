#!/bin/sh
# Prints the directory of the image that the virtual machines of tests/vm boot from: disk.ext4,
# vmlinuz and initrd.img. Builds it if it is not there: Debian 12, its kernel, systemd, PostgreSQL
# 15 without a cluster, and a shell on a virtio port. About four minutes, needs root, mmdebstrap
# and the distribution's mirror; kept in ${XDG_CACHE_HOME:-~/.cache}/pgvigil, named by the hash of
# this file. Two builders do not disturb each other: each works in a directory of its own name.
set -eu

cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgvigil
image=$cache/vm-$(sha256sum "$0" | cut -c 1-12)
if [ -d "$image" ]; then
    echo "$image"
    exit 0
fi
mkdir -p "$cache"
# The second one waits and then finds what the first one built.
exec 9>"$cache/vm.lock"
flock 9
if [ -d "$image" ]; then
    echo "$image"
    exit 0
fi

log=$cache/vm-build.log
echo "vm: building the image $image (about 4 minutes; log: $log)" >&2
work=$(mktemp -d "/var/tmp/pgvigil-image-XXXXXX")
end() {
    status=$?
    rm -rf "$work"
    [ $status -eq 0 ] && return
    tail -n 30 "$log" >&2
    echo "vm: the image could not be built, see $log" >&2
}
trap end EXIT
trap 'exit 1' INT TERM
root=$work/root files=$work/files made=$work/made
mkdir -p "$files" "$made"

# What is copied into the image before the first package is configured.
install_file() { # path mode, contents on stdin
    mkdir -p "$files/$(dirname "$1")"
    cat >"$files/$1"
    chmod "$2" "$files/$1"
}

# An initrd with nothing but what mounts the root file system: under software emulation each
# megabyte counts.
install_file etc/initramfs-tools/conf.d/vm 644 <<'END'
MODULES=list
BUSYBOX=n
COMPRESS=gzip
END
install_file etc/initramfs-tools/modules 644 <<'END'
virtio_pci
virtio_blk
ext4
END
install_file etc/postgresql-common/createcluster.d/vm.conf 644 <<'END'
create_main_cluster = false
END
# PostgreSQL is pgvigil's to start.
install_file usr/sbin/policy-rc.d 755 <<'END'
#!/bin/sh
exit 101
END
install_file etc/fstab 644 <<'END'
/dev/vda / ext4 rw,noatime 0 0
END
install_file etc/systemd/journald.conf.d/vm.conf 644 <<'END'
[Journal]
Storage=persistent
END
# A machine that is emulated on a busy one is slow, not broken.
install_file etc/systemd/system.conf.d/vm.conf 644 <<'END'
[Manager]
DefaultTimeoutStartSec=600
DefaultDeviceTimeoutSec=600
END

# The address comes on the kernel's command line (`vm.address=10.77.0.11/24`), the clock from the
# host.
install_file usr/local/sbin/vm-network 755 <<'END'
#!/bin/sh
set -eu
address=$(sed -n 's/.*vm\.address=\([^ ]*\).*/\1/p' /proc/cmdline)
ip link set lo up
ip link set eth0 up
ip address add "$address" dev eth0
END
install_file etc/systemd/system/vm-network.service 644 <<'END'
[Unit]
Description=Address from the command line
Requires=sys-subsystem-net-devices-eth0.device
After=sys-subsystem-net-devices-eth0.device
Wants=network.target
Before=network.target network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/vm-network
[Install]
WantedBy=multi-user.target network-online.target
END

# The data disk, behind the device mapper so that it can be made to hang.
install_file usr/local/sbin/vm-data 755 <<'END'
#!/bin/sh
set -eu
modprobe dm_mod
sectors=$(blockdev --getsz /dev/vdb)
dmsetup create data --table "0 $sectors linear /dev/vdb 0"
blkid /dev/mapper/data >/dev/null || mkfs.ext4 -q -E lazy_itable_init=1 /dev/mapper/data
mkdir -p /data
mount -o noatime /dev/mapper/data /data
chown postgres: /data
END
install_file etc/systemd/system/vm-data.service 644 <<'END'
[Unit]
Description=Data disk
ConditionPathExists=/dev/vdb
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/vm-data
[Install]
WantedBy=multi-user.target
END

# One command at a time, in and out as fields that end with NUL: in a tag and a command, out the
# tag, the exit status and what was printed. The first message after a boot is `hello`.
install_file usr/local/sbin/vm-shell 755 <<'END'
#!/bin/bash
exec 3<>/dev/virtio-ports/shell
printf '\0\002hello\0%s\0%s\0' 0 "$(cat /proc/sys/kernel/random/boot_id)" >&3
while IFS= read -r -d '' -u 3 tag && IFS= read -r -d '' -u 3 command; do
    output=$(exec 3>&-; bash -c "$command" 2>&1 </dev/null)
    printf '%s\0%s\0%s\0' "$tag" $? "$output" >&3
done
END
install_file etc/systemd/system/vm-shell.service 644 <<'END'
[Unit]
Description=Commands from the host
Requires=vm-network.service vm-data.service
After=vm-network.service vm-data.service
[Service]
ExecStart=/usr/local/sbin/vm-shell
Restart=always
OOMScoreAdjust=-1000
[Install]
WantedBy=multi-user.target
END

packages=systemd,systemd-sysv,udev,dbus,kmod,iproute2,procps,dmsetup,e2fsprogs
packages=$packages,initramfs-tools,linux-image-amd64,postgresql-15

build() {
    mmdebstrap --mode=root --variant=minbase --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/lib/modules/*/kernel/drivers/gpu/*' \
        --dpkgopt='path-exclude=/lib/modules/*/kernel/drivers/media/*' \
        --dpkgopt='path-exclude=/lib/modules/*/kernel/drivers/net/wireless/*' \
        --dpkgopt='path-exclude=/lib/modules/*/kernel/drivers/net/ethernet/*' \
        --dpkgopt='path-exclude=/lib/modules/*/kernel/sound/*' \
        --include="$packages" --essential-hook="copy-in $files/etc $files/usr /" \
        bookworm "$root"
    for unit in vm-network vm-data vm-shell; do
        chroot "$root" systemctl enable "$unit.service"
    done
    chroot "$root" systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
        e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-binfmt.service \
        systemd-pstore.service getty@tty1.service serial-getty@ttyS0.service \
        systemd-networkd.service
    chroot "$root" systemctl disable postgresql.service
    rm -f "$root/usr/sbin/policy-rc.d" "$root"/etc/machine-id
    : >"$root/etc/machine-id"
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/log/*.log
    cp "$root"/boot/vmlinuz-* "$made/vmlinuz"
    cp "$root"/boot/initrd.img-* "$made/initrd.img"
    rm "$root"/boot/vmlinuz-* "$root"/boot/initrd.img-*
    mke2fs -q -t ext4 -E lazy_itable_init=1 -d "$root" "$made/disk.ext4" 2G
}
build >"$log" 2>&1
# Another file system, perhaps: first beside the place, then renamed.
part=$cache/vm-part-$$
rm -rf "$part"
cp -r --sparse=always "$made" "$part"
mv -T "$part" "$image"
echo "$image"
