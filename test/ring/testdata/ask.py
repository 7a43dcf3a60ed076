#!/usr/bin/python3
"""ask.py N INSTANCE: N stops of an instance at once, each of which may ask for a password, with an agent that shows
every question to nobody and never answers."""

import os
import sys

import dbus
import dbus.lowlevel
import dbus.service
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib


class Agent(dbus.service.Object):
    @dbus.service.method("org.freedesktop.PolicyKit1.AuthenticationAgent", in_signature="sssa{ss}saa{sv}", async_callbacks=("done", "failed"))
    def BeginAuthentication(self, action, message, icon, details, cookie, identities, done, failed):
        print("asked:", message, flush=True)

    @dbus.service.method("org.freedesktop.PolicyKit1.AuthenticationAgent", in_signature="s")
    def CancelAuthentication(self, cookie):
        print("taken back", flush=True)


DBusGMainLoop(set_as_default=True)
bus = dbus.SystemBus()
agent = Agent(bus, "/agent")
with open("/proc/self/stat") as stat:
    started = int(stat.read().rsplit(")", 1)[1].split()[19])
process = {"pid": dbus.UInt32(os.getpid()), "start-time": dbus.UInt64(started), "uid": dbus.Int32(os.getuid())}
authority = bus.get_object("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority", introspect=False)
authority.RegisterAuthenticationAgent(("unix-process", process), "C.UTF-8", "/agent", dbus_interface="org.freedesktop.PolicyKit1.Authority", signature="(sa{sv})ss")


def answered(reply):
    print("answered:", reply.get_error_name() or "yes", flush=True)


for _ in range(int(sys.argv[1])):
    call = dbus.lowlevel.MethodCallMessage("me.left4", "/me/left4", "me.left4.Manager", "StopInstance")
    call.append(sys.argv[2], {}, signature="sa{sv}")
    call.set_allow_interactive_authorization(True)
    bus.send_message_with_reply(call, answered, timeout_s=3600)
GLib.MainLoop().run()
