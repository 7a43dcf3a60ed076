package ctl

import (
	"left4.me/left4/client"
)

const (
	groupInstances = "Instances"
	groupLook      = "Look at them"
	groupGame      = "Game"
	groupJobs      = "Jobs"
	groupOther     = "Other"
)

const jobHelp = `
It waits until the work is done and shows the steps; Ctrl-C ends the waiting, not the work.
Several instances are worked on at the same time.`

// verbs is the table of all that left4ctl can do, in the order of help.
func verbs() []command {
	return []command{
		{
			name: "create", args: "NAME", group: groupInstances, min: 1, max: 1, changes: true,
			summary: "define an instance and reserve its port",
			help: `Defines an instance and reserves its name and port. Nothing runs yet: left4ctl start NAME
starts it. A name has 1 to 64 of a-z, 0-9, - and _, and begins with a letter or digit.`,
			flags: settingFlags, run: runCreate,
		},
		{
			name: "configure", args: "NAME [KEY=VALUE]…", group: groupInstances, min: 1, max: -1, changes: true,
			summary: "change an instance's definition",
			help: `Changes what is given and leaves the rest. A running server has it from its next start,
limits at once.

What the flags set can be written as KEY=VALUE too: port, label, hostname, arguments,
config, overlays, restart, and each limit by its own name, as MemoryMax=2G. A list is
replaced as a whole, by as many KEY=VALUE of its key as it shall have elements; one
without a VALUE empties it. A limit without a VALUE goes back to its default, limits=
does so with all of them.`,
			flags: settingFlags, run: runConfigure,
		},
		{
			name: "initialize", args: "NAME", group: groupInstances, min: 1, max: 1, changes: true,
			summary: "render an instance's files, from a spec file or as it is defined",
			help: `Renders an instance's files, unit settings and mount plan. With --file the instance is
first defined anew as the spec file says, or created if there is none. start does the
rendering itself, so without a spec there is seldom a need for this.

A spec file is YAML and strict. All keys may be left out:

  port: 27020
  label: Versus
  hostname: "Versus #1"
  overlays: [sourcemod, {path: maps/custom, alias: maps}]   # the first wins
  arguments: [+map, c1m1_hotel]
  config: [sv_cheats 0]                                     # lines of server.cfg
  restart: on-failure                                       # or always, no
  limits: {MemoryMax: 2G, CPUQuota: 150%, AllowedCPUs: "0-3", TasksMax: 256}`,
			flags: initializeFlags, run: runInitialize,
		},
		{
			name: "start", args: "NAME…", group: groupInstances, min: 1, max: -1, changes: true,
			summary: "start, now and whenever the machine boots",
			help:    `Renders, mounts, enables and starts the server. Starting what runs succeeds.` + jobHelp,
			flags:   jobFlags, run: runLifecycle((*client.Client).StartInstance),
		},
		{
			name: "stop", args: "NAME…", group: groupInstances, min: 1, max: -1, changes: true,
			summary: "stop, and stay stopped",
			help:    `Disables and stops the server. A start of the same instance that is under way ends.` + jobHelp,
			flags:   jobFlags, run: runLifecycle((*client.Client).StopInstance),
		},
		{
			name: "restart", args: "NAME…", group: groupInstances, min: 1, max: -1, changes: true,
			summary: "stop, render and start again",
			help:    `Stops the server, renders it as it is defined now, and starts it. What is stopped is started.` + jobHelp,
			flags:   jobFlags, run: runLifecycle((*client.Client).RestartInstance),
		},
		{
			name: "kill", args: "NAME…", group: groupInstances, min: 1, max: -1, changes: true,
			summary: "end every process at once, and stay stopped",
			help:    `Disables the server and ends all its processes with SIGKILL. It stays down.` + jobHelp,
			flags:   jobFlags, run: runLifecycle((*client.Client).KillInstance),
		},
		{
			name: "reset", args: "NAME…", group: groupInstances, min: 1, max: -1, changes: true,
			summary: "stop and remove all that the server wrote",
			help: `Stops the server and removes all that it wrote. The definition stays; the next start is like
the first.` + jobHelp,
			flags: jobFlags, run: runLifecycle((*client.Client).ResetInstance),
		},
		{
			name: "delete", args: "NAME…", group: groupInstances, min: 1, max: -1, changes: true,
			summary: "stop and remove an instance with all that is its own",
			help: `Stops the server and removes all that it wrote and its definition, and frees its port.
Deleting what is not there succeeds. It does not ask back.` + jobHelp,
			flags: jobFlags, run: runLifecycle((*client.Client).DeleteInstance),
		},
		{
			name: "list", group: groupLook,
			summary: "list the instances",
			help: `Lists the instances.

--json prints an array of objects with name, label, state (stopped, starting, running,
stopping, restarting, failed), desired_state (running, stopped), cause, blueprint, port
and object (the path on the bus).`,
			flags: tableFlags, run: runList,
		},
		{
			name: "status", args: "[NAME]", group: groupLook, max: 1,
			summary: "show an instance, or left4d itself",
			help: `Shows all that is known of an instance. Without a NAME it shows the version of left4d, the
game and how many instances there are.

The exit status is 3 if the instance is stopped or failed, 4 if there is none of that name.

--json prints an object: the fields of list, and overlays (name and alias, highest
precedence first), unit, owner (uid), drifted, pending_restart, main_pid (0 for none),
state_since (RFC 3339, or null), restarts, limits (as in a unit file). Without a NAME
the fields are version, game_revision (0 for none), instances and states (how many
instances are in each).`,
			flags: jsonFlag, run: runStatus,
		},
		{
			name: "logs", args: "NAME", group: groupLook, min: 1, max: 1,
			summary: "show what a server wrote",
			help: `Shows the journal of the server's unit with journalctl, which shows all of it only to root
and the groups systemd-journal and adm.`,
			flags: logsFlags, run: runLogs,
		},
		{
			name: "game import", args: "DIR|FILE", group: groupGame, min: 1, max: 1, changes: true,
			summary: "install the game from a directory or a tar file",
			help: `Makes a new revision of the game from a directory, or from a .tar, .tar.gz or .tar.zst, read
with your own rights. Servers have it from their next start. A directory is packed by this
command, so the import ends with it; --no-wait stays until all is packed.`,
			flags: jobFlags, run: runImport,
		},
		{
			name: "job list", group: groupJobs,
			summary: "list the newest jobs",
			help: `Lists the newest jobs, the newest last.

--json prints an array of objects with id, kind, target, state (queued, running, done,
failed, canceled, timeout, skipped), cause and object (the path on the bus).`,
			flags: tableFlags, run: runJobList,
		},
		{
			name: "job show", args: "ID", group: groupJobs, min: 1, max: 1,
			summary: "show a job",
			help: `Shows all that is known of a job.

--json prints an object: the fields of job list, and progress (0 to 1, or null), status (the
step it is at), requester (uid), created, started, finished (RFC 3339, or null), cancelable.`,
			flags: jsonFlag, run: runJobShow,
		},
		{
			name: "job cancel", args: "ID", group: groupJobs, min: 1, max: 1, changes: true,
			summary: "end a job",
			help:    `Asks for the end of a job that is queued or running.`,
			run:     runJobCancel,
		},
		{
			name: "version", group: groupOther,
			summary: "print the versions of left4ctl and left4d",
			help:    `Prints the versions of left4ctl and, if it answers, of left4d.`,
			run:     runVersion,
		},
		{
			name: "help", args: "[VERB]", group: groupOther, max: 2,
			summary: "print help",
			help:    `Prints what left4ctl can do, or more about one verb.`,
			run:     runHelp,
		},
	}
}
