#!/usr/bin/python3
"""flood.py INSTANCE: stops that nobody here may do, by bursts over many connections, far more than one user may have
under way, until it is killed."""

import sys

import dbus
import dbus.lowlevel

buses = [dbus.SystemBus(private=True) for _ in range(8)]
flooding = False
while True:
    for bus in buses:
        for _ in range(400):
            call = dbus.lowlevel.MethodCallMessage("me.left4", "/me/left4", "me.left4.Manager", "StopInstance")
            call.append(sys.argv[1], {}, signature="sa{sv}")
            call.set_no_reply(True)
            bus.send_message(call)
        bus.flush()
    for bus in buses:
        # When this is answered, or refused, left4d has had all before it: what waits in the bus is the bus's own limit.
        try:
            bus.call_blocking("me.left4", "/me/left4", "org.freedesktop.DBus.Peer", "Ping", "", [])
        except dbus.DBusException as error:
            if error.get_dbus_name() != "org.freedesktop.DBus.Error.LimitsExceeded":
                raise
    if not flooding:
        print("flooding", flush=True)
        flooding = True
