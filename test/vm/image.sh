# Makes disk and kernel of a virtual machine in the directory $1, from the layers $2 of a root file system and its
# /var/lib $3, with the agent $4. It runs in a mount namespace of its own, which takes all mounts with it.
cd "$1"
mkdir upper work root
mount -t overlay -o "lowerdir=$2,upperdir=upper,workdir=work" left4-vm root
mount --bind -o ro "$3" root/var/lib

install -D "$4" root/usr/local/libexec/left4-vm-agent
cat >root/etc/systemd/system/left4-vm-agent.service <<UNIT
[Unit]
Description=Agent of the tests outside
# Early, so that a boot that hangs can be looked at.
After=systemd-udevd.service
BindsTo=dev-virtio\x2dports-left4.vm.device
After=dev-virtio\x2dports-left4.vm.device
DefaultDependencies=no
Before=shutdown.target
Conflicts=shutdown.target

[Service]
Environment=HOME=/root LANG=C.UTF-8 PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/usr/local/libexec/left4-vm-agent
# A command may run into the OOM killer, not the agent with it.
OOMPolicy=continue
OOMScoreAdjust=-900
WorkingDirectory=/

[Install]
WantedBy=basic.target
UNIT
# Nobody logs in.
systemctl --root=root --quiet enable left4-vm-agent.service
systemctl --root=root --quiet mask getty@tty1.service serial-getty@ttyS0.service
# The journal lies in a directory of this name, and must be found again after a power cut.
tr --delete - </proc/sys/kernel/random/uuid >root/etc/machine-id

cp root/vmlinuz kernel
mke2fs -q -t ext4 -d root disk 3G
umount root/var/lib root
rm -r upper work root
