#!/usr/bin/python3
"""forge.py UNIT SYSTEMD-JOB JOB INSTANCE PID...: what somebody may try who wants left4d, or clients of it, to believe that
a job has ended: signals of systemd, of left4d and of the bus itself, to everybody and to each connection of these
processes."""

import sys

import dbus
import dbus.lowlevel

unit, systemd_job, job, instance, *pids = sys.argv[1:]
bus = dbus.SystemBus()
me = bus.get_unique_name()
driver = dbus.Interface(bus.get_object("org.freedesktop.DBus", "/org/freedesktop/DBus"), "org.freedesktop.DBus")


def process(name):
    try:
        return str(driver.GetConnectionUnixProcessID(name))
    except dbus.DBusException:
        return "unknown"


victims = [name for name in driver.ListNames() if name.startswith(":") and process(name) in pids]

SYSTEMD, LEFT4 = "/org/freedesktop/systemd1", "/me/left4"
unit_path = SYSTEMD + "/unit/" + "".join(c if c.isalnum() else f"_{ord(c):02x}" for c in unit)
job_id = dbus.UInt32(job.rsplit("/", 1)[1])
systemd_id = dbus.UInt32(systemd_job.rsplit("/", 1)[1])


def changed(iface, **values):
    return "sa{sv}as", [iface, values, []]


forged = [
    (SYSTEMD, "org.freedesktop.systemd1.Manager.JobRemoved", "uoss", [systemd_id, systemd_job, unit, result])
    for result in ("done", "failed", "canceled")
] + [
    (unit_path, "org.freedesktop.DBus.Properties.PropertiesChanged", *changed("org.freedesktop.systemd1.Unit", ActiveState="active", SubState="running")),
    (unit_path, "org.freedesktop.DBus.Properties.PropertiesChanged", *changed("org.freedesktop.systemd1.Unit", ActiveState="failed", SubState="failed")),
    (unit_path, "org.freedesktop.DBus.Properties.PropertiesChanged", *changed("org.freedesktop.systemd1.Service", MainPID=dbus.UInt32(1), Result="oom-kill")),
    (SYSTEMD, "org.freedesktop.systemd1.Manager.UnitRemoved", "so", [unit, unit_path]),
    (SYSTEMD, "org.freedesktop.systemd1.Manager.Reloading", "b", [False]),
    (LEFT4, "me.left4.Manager.JobRemoved", "uosss", [job_id, job, "start", instance, "done"]),
    (LEFT4, "me.left4.Manager.JobRemoved", "uosss", [job_id, job, "stop", instance, "failed"]),
    (LEFT4, "me.left4.Manager.InstanceStateChanged", "ssss", [instance, "starting", "running", "forged"]),
    (job, "org.freedesktop.DBus.Properties.PropertiesChanged", *changed("me.left4.Job", State="done", Progress=1.0, Cause="forged", Status="forged")),
    (f"{LEFT4}/instance/{instance}", "org.freedesktop.DBus.Properties.PropertiesChanged", *changed("me.left4.Instance", State="running", Cause="forged")),
    (LEFT4, "org.freedesktop.DBus.ObjectManager.InterfacesRemoved", "oas", [job, ["me.left4.Job"]]),
]
# Who believes the last of these takes our own signals for those of systemd and left4d after that.
owners = [
    ("/org/freedesktop/DBus", "org.freedesktop.DBus.NameOwnerChanged", "sss", [name, "", owner])
    for name in ("org.freedesktop.systemd1", "me.left4", "org.freedesktop.PolicyKit1") for owner in ("", me)
] + [
    ("/org/freedesktop/DBus", "org.freedesktop.DBus.NameLost", "s", [name]) for name in ("me.left4", "org.freedesktop.systemd1")
] + [
    ("/org/freedesktop/DBus", "org.freedesktop.DBus.NameOwnerChanged", "sss", [victim, victim, ""]) for victim in victims
]
count = 0
for path, signal, signature, arguments in forged + owners + forged:
    for destination in [None] + victims:
        message = dbus.lowlevel.SignalMessage(path, *signal.rsplit(".", 1))
        if destination:
            message.set_destination(destination)
        message.append(signature=signature, *arguments)
        bus.send_message(message)
        count += 1
bus.flush()
print(count, "signals to everybody and", len(victims), "connections")
