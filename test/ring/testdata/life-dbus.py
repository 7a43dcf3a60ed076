#!/usr/bin/python3
"""life-dbus.py NAME TAR: a game server's life by dbus-python, over an overlay that is imported from a tar file."""

import sys

import dbus
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

name, tar = sys.argv[1:]
bus = dbus.SystemBus(mainloop=DBusGMainLoop())
manager = dbus.Interface(bus.get_object("me.left4", "/me/left4"), "me.left4.Manager")
loop, ended = GLib.MainLoop(), {}


def removed(id, job, kind, target, result):
    ended[job] = f"{kind} {target}: {result}"
    loop.quit()


manager.connect_to_signal("JobRemoved", removed)


def end(job):
    while job not in ended:
        loop.run()
    print(ended[job])


manager.CreateOverlay(name, "files", {}, {})
with open(tar, "rb") as stream:
    end(manager.ImportOverlay(name, dbus.types.UnixFd(stream), {}))
overlays = dbus.Array([(name, "")], signature="(ss)")
instance = bus.get_object("me.left4", manager.CreateInstance(name, {"overlays": overlays}, {}))
end(manager.StartInstance(name, {"timeout": dbus.UInt64(60_000_000)}))
state = dbus.Interface(instance, dbus.PROPERTIES_IFACE).GetAll("me.left4.Instance")
print(state["State"], state["OwnerName"], [tuple(map(str, overlay)) for overlay in state["Overlays"]])
print([tuple(map(str, layer)) for layer in instance.FindFile("left4dead2/by.txt", dbus_interface="me.left4.Instance")])
end(manager.DeleteInstance(name, {}))
end(manager.DeleteOverlay(name, {}))
try:
    manager.GetOverlay(name)
except dbus.DBusException as error:
    print(error.get_dbus_name())
