#!/usr/bin/python3
"""calls.py ROUNDS INSTANCE: calls left4d three times a round, and prints how long each kind of call took: median and
longest, in milliseconds."""

import statistics
import sys
import time

import dbus

rounds, name = int(sys.argv[1]), sys.argv[2]
bus = dbus.SystemBus()
manager = dbus.Interface(bus.get_object("me.left4", "/me/left4"), "me.left4.Manager")
instance = bus.get_object("me.left4", manager.GetInstance(name))
kinds = {
    "Get": lambda i: instance.Get("me.left4.Instance", "State", dbus_interface=dbus.PROPERTIES_IFACE),
    "ListInstances": lambda i: manager.ListInstances({}),
    "ConfigureInstance": lambda i: manager.ConfigureInstance(name, {"label": f"round {i}"}, {}),
}
took = {kind: [] for kind in kinds}
for i in range(rounds):
    for kind, call in kinds.items():
        began = time.monotonic()
        call(i)
        took[kind].append((time.monotonic() - began) * 1000)
for kind, ms in took.items():
    print(kind, f"{statistics.median(ms):.2f} {max(ms):.2f}")
