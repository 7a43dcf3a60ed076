#!/usr/bin/python3
"""polkit.py MODE: a polkit on its name of the bus that is not well. It prints every question, and
denies: answers no
hangs: answers nothing
slow: says yes after 30 seconds
dies: ends by SIGKILL when it is asked
malformed: answers with what means yes to whoever reads it carelessly, each time with something else"""

import os
import signal
import sys

import dbus
import dbus.lowlevel
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

mode = sys.argv[1]
DBusGMainLoop(set_as_default=True)
bus = dbus.SystemBus()
questions = 0


def answer(question, signature, *values):
    reply = dbus.lowlevel.MethodReturnMessage(question)
    if signature:
        reply.append(signature=signature, *values)
    bus.send_message(reply)


def error(question, name):
    bus.send_message(dbus.lowlevel.ErrorMessage(question, name, "true"))


MALFORMED = [
    lambda q: answer(q, ""),
    lambda q: answer(q, "b", True),
    lambda q: answer(q, "bba{ss}", True, True, {}),
    lambda q: answer(q, "(bb)", (True, False)),
    lambda q: answer(q, "(uua{ss})", (1, 0, {})),
    lambda q: answer(q, "(ssa{ss})", ("true", "false", {})),
    lambda q: answer(q, "(bba{sv})", (True, False, {})),
    lambda q: answer(q, "(bba{ss}s)", (True, False, {}, "yes")),
    lambda q: answer(q, "(bba{ss})s", (True, False, {}), "yes"),
    lambda q: answer(q, "v", dbus.Struct((True, False, dbus.Dictionary({}, "ss")), variant_level=1)),
    lambda q: answer(q, "a(bba{ss})", [(True, False, {})]),
    lambda q: answer(q, "(bba{ss})", (False, True, {"polkit.result": "yes"})),
    lambda q: error(q, "org.freedesktop.PolicyKit1.Error.Failed"),
    lambda q: error(q, "org.freedesktop.DBus.Error.UnknownMethod"),
    # The second answer to one question is none.
    lambda q: (answer(q, "(bba{ss})", (False, False, {})), answer(q, "(bba{ss})", (True, False, {}))),
]


def asked(_, message):
    global questions
    if message.get_member() != "CheckAuthorization":
        return dbus.lowlevel.HANDLER_RESULT_NOT_YET_HANDLED
    questions += 1
    print("asked", message.get_args_list()[1], flush=True)
    if mode == "denies":
        answer(message, "(bba{ss})", (False, False, {}))
    elif mode == "slow":
        GLib.timeout_add_seconds(30, lambda: answer(message, "(bba{ss})", (True, False, {})))
    elif mode == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "malformed":
        MALFORMED[questions % len(MALFORMED)](message)
    return dbus.lowlevel.HANDLER_RESULT_HANDLED


bus.add_message_filter(asked)
bus.request_name("org.freedesktop.PolicyKit1")
GLib.MainLoop().run()
