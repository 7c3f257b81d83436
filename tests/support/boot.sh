#!/bin/sh
# Become PID 1 of a machine that is thrown away: systemd, over an overlay of /. In fresh mount, pid, ipc, uts, net and
# cgroup namespaces. Arguments: an empty directory; the interpreter's prefix; its packages; the checkout.
# Inside, /opt/avault/bin/python imports what the checkout's own does, wherever that lies (a 0700 home of root, say).
set -eu
scratch=$1 prefix=$2 packages=$3 source=$4

mount --make-rprivate /
mount -t tmpfs -o mode=755 machine "$scratch"
root=$scratch/root
mkdir "$scratch/changes" "$scratch/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$scratch/changes,workdir=$scratch/work" machine "$root"

[ -x "$root/lib/systemd/systemd" ] || { echo "no /lib/systemd/systemd on the file system of /"; exit 1; }
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid dev "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for directory in run:755 tmp:1777 root:700 home:755 opt:755; do
    mount -t tmpfs -o "mode=${directory#*:}" machine "$root/${directory%:*}"
done

avault=$root/opt/avault
mkdir -p "$avault/bin" "$avault/python" "$avault/packages" "$avault/source"
mount --bind "$prefix" "$avault/python"
mount --bind "$packages" "$avault/packages"
mount --bind "$source" "$avault/source"
version=$(basename "$(dirname "$packages")")
mkdir -p "$avault/lib/$version/site-packages"
for part in packages source/protocol source/client source/daemon source/tests; do
    echo "/opt/avault/$part"
done >"$avault/lib/$version/site-packages/avault.pth"
echo "home = /opt/avault/python/bin" >"$avault/pyvenv.cfg"
ln -s "/opt/avault/python/bin/$version" "$avault/bin/python"
for program in avault:avault_client.cli avaultd:avault_daemon.main; do
    printf '#!/opt/avault/bin/python\nimport sys\nfrom %s import main\nsys.exit(main())\n' \
        "${program#*:}" >"$avault/bin/${program%:*}"
done
chmod 755 "$avault/bin/avault" "$avault/bin/avaultd"
# Its own libpython, which it may know by a path that is not there; another of that name may be.
echo /opt/avault/python/lib >"$root/etc/ld.so.conf.d/000-avault.conf"
chroot "$root" ldconfig

# Of what this machine starts at boot, only what sessions of users need.
: >"$root/etc/fstab"
echo 5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e >"$root/etc/machine-id"
rm -rf "$root/etc/systemd/system" "$root/etc/systemd/user"
mkdir -p "$root/etc/systemd/system" "$root/etc/systemd/user" "$root/var/lib/systemd/linger"
cat >"$root/etc/systemd/system/default.target" <<UNIT
[Unit]
Requires=basic.target dbus.socket systemd-logind.service systemd-user-sessions.service
After=basic.target systemd-user-sessions.service systemd-logind.service
AllowIsolate=yes
UNIT
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-timesyncd.service systemd-sysctl.service \
    systemd-modules-load.service systemd-hwdb-update.service ldconfig.service dev-hugepages.mount dev-mqueue.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount \
    proc-sys-fs-binfmt_misc.automount systemd-journal-flush.service timers.target; do
    ln -s /dev/null "$root/etc/systemd/system/$unit"
done

hostname avault-test
cd "$root"
mkdir .old
pivot_root . .old
umount -l /.old
mount --make-rshared / # as where systemd starts by itself: credentials of services with a User= need it
echo "the namespaces are ready"
exec env -i container=avault-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --show-status=no --log-target=console --log-level=notice
