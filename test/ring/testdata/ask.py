#!/usr/bin/python3
"""ask.py N INSTANCE: N stops of an instance at once, each of which may ask for a password, with an agent that shows
every question to nobody, never answers, and outlives who asks."""

import os
import signal
import sys

import dbus
import dbus.lowlevel
import dbus.service
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

AGENT = "org.freedesktop.PolicyKit1.AuthenticationAgent"


class Agent(dbus.service.Object):
    @dbus.service.method(AGENT, in_signature="sssa{ss}saa{sv}", async_callbacks=("done", "failed"))
    def BeginAuthentication(self, action, message, icon, details, cookie, identities, done, failed):
        print("asked:", message, flush=True)

    @dbus.service.method(AGENT, in_signature="s")
    def CancelAuthentication(self, cookie):
        pass


def started(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rsplit(")", 1)[1].split()[19])


asking = {"pid": dbus.UInt32(os.getpid()), "start-time": dbus.UInt64(started(os.getpid())), "uid": dbus.Int32(os.getuid())}
registered, ready = os.pipe()
child = os.fork()
DBusGMainLoop(set_as_default=True)
bus = dbus.SystemBus()
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    agent = Agent(bus, "/agent")
    authority = bus.get_object("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority")
    authority.RegisterAuthenticationAgent(
        ("unix-process", asking), "C.UTF-8", "/agent", dbus_interface="org.freedesktop.PolicyKit1.Authority", signature="(sa{sv})ss"
    )
    os.write(ready, b"!")
else:
    os.read(registered, 1)
    for _ in range(int(sys.argv[1])):
        call = dbus.lowlevel.MethodCallMessage("me.left4", "/me/left4", "me.left4.Manager", "StopInstance")
        call.append(sys.argv[2], {}, signature="sa{sv}")
        call.set_allow_interactive_authorization(True)
        bus.send_message_with_reply(call, lambda reply: print("answered:", reply.get_error_name() or "yes", flush=True), timeout_s=3600)
GLib.MainLoop().run()
