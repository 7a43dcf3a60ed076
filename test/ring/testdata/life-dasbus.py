#!/usr/bin/python3
"""life-dasbus.py NAME: a game server's life by dasbus."""

import sys

from dasbus.connection import SystemMessageBus
from dasbus.error import DBusError
from dasbus.loop import EventLoop
from dasbus.typing import Str, get_variant

name = sys.argv[1]
bus = SystemMessageBus()
manager = bus.get_proxy("me.left4", "/me/left4")
loop, ended = EventLoop(), {}


def removed(id, job, kind, target, result):
    ended[job] = f"{kind} {target}: {result}"
    loop.quit()


# Before the first call: a job may end before its caller has heard of it.
manager.JobRemoved.connect(removed)
manager.InstanceStateChanged.connect(lambda name, old, new, cause: print(f"{name}: {old}, {new}"))


def end(job):
    while job not in ended:
        loop.run()
    print(ended[job])


config = {"hostname": get_variant(Str, "By dasbus")}
instance = bus.get_proxy("me.left4", manager.CreateInstance(name, config, {}))
end(manager.StartInstance(name, {}))
print(instance.State, instance.OwnerName)
end(instance.Stop({}))
end(manager.DeleteInstance(name, {}))
try:
    manager.GetInstance(name)
except DBusError as error:
    print(error)
