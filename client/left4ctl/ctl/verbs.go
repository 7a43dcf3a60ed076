package ctl

import (
	"left4.me/left4/client"
)

const (
	groupInstances  = "Instances"
	groupHost       = "All at once"
	groupLook       = "Look at them"
	groupBlueprints = "Blueprints"
	groupOverlays   = "Overlays"
	groupFiles      = "Files of overlays"
	groupGame       = "Game"
	groupJobs       = "Jobs"
	groupOther      = "Other"
)

const listHelp = `
A list is replaced as a whole, by as many KEY=VALUE of its key as it shall have elements; one
without a VALUE empties it. A limit without a VALUE goes back to its default, limits= does so
with all of them.`

const pathHelp = `
PATH begins at the top of the overlay, as left4dead2/cfg/server.cfg. A backslash in it is
written \\, and a byte that cannot be typed \xNN.`

const jobHelp = `
It waits until the work is done and shows the steps; Ctrl-C ends the waiting, not the work.` + patternHelp

const patternHelp = `
A NAME may be a pattern with *, ? and […], in quotes so that the shell leaves it alone:
'versus-*'. Several are worked on side by side, and one that fails does not hold up the rest.`

const showHelp = `
A NAME may be a pattern with *, ? and […], in quotes so that the shell leaves it alone.`

const hostsHelp = `

Several --host are asked at the same time, each for 15 s at most, and without a password; one
that cannot be reached is told, does not hide the others, and makes the exit status 1.`

// verbs is the table of all that left4ctl can do, in the order of help.
func verbs() []command {
	return []command{
		{
			name: "create", args: "NAME", group: groupInstances, min: 1, max: 1, asks: true,
			summary: "define an instance and reserve its port",
			help: `Defines an instance and reserves its name and port. Nothing runs yet: left4ctl start NAME
starts it. A name has 1 to 64 of a-z, 0-9, - and _, and begins with a letter or digit.`,
			flags: settingFlags, run: runCreate,
		},
		{
			name: "clone", args: "NAME NEW", group: groupInstances, min: 2, max: 2, asks: true,
			summary: "define an instance like another one",
			help: `Defines the instance NEW as NAME is defined, with the same blueprint. It gets a port and an
rcon_password of its own, and no label. What the server of NAME wrote is not copied, unless
--files is given: then NAME must be stopped, and if the copy fails NEW is deleted again. What
left4 itself put there, as the rcon_password, is not copied even so.`,
			flags: cloneFlags, run: runClone,
		}, {
			name: "configure", args: "NAME… [KEY=VALUE]…", group: groupInstances, min: 1, max: -1, asks: true,
			summary: "change an instance's definition",
			help: `Changes what is given and leaves the rest. A running server has it from its next start,
limits at once.

What the flags set can be written as KEY=VALUE too: blueprint, port, label, hostname,
arguments, config, overlays, restart, and each limit by its own name, as MemoryMax=2G.` + listHelp + `
An instance that follows a blueprint has its own overlays above those of the blueprint, its
arguments and lines behind, and its limits instead; blueprint= makes it follow none.
` + patternHelp,
			flags: configureFlags, run: runConfigure,
		},
		{
			name: "rename", args: "NAME LABEL", group: groupInstances, min: 2, max: 2, asks: true,
			summary: "give an instance another label",
			help: `Sets the label, which is what an instance is called before people. An empty LABEL takes it
away. The NAME, which is also that of its unit, stays for life.`,
			run: runRename,
		}, {
			name: "initialize", args: "NAME…", group: groupInstances, min: 1, max: -1, asks: true,
			summary: "render an instance's files, from a spec file or as it is defined",
			help: `Renders an instance's files, unit settings and mount plan. With --file the instance is
first defined anew as the spec file says, or created if there is none. start does the
rendering itself, so without a spec there is seldom a need for this.
` + patternHelp + `

A spec file is YAML and strict. All keys may be left out:

  blueprint: versus
  port: 27020
  label: Versus
  hostname: "Versus #1"
  overlays: [sourcemod, {path: maps, alias: "*"}]           # the first wins
  arguments: [+map, c1m1_hotel]
  config: [sv_cheats 0]                                     # lines of server.cfg
  restart: on-failure                                       # or always, no
  limits: {MemoryMax: 2G, CPUQuota: 150%, AllowedCPUs: "0-3", TasksMax: 256}`,
			flags: initializeFlags, run: runInitialize,
		},
		{
			name: "start", args: "NAME…", group: groupInstances, min: 1, max: -1, asks: true,
			summary: "start, now and whenever the machine boots",
			help:    `Renders, mounts, enables and starts the server. Starting what runs succeeds.` + jobHelp,
			flags:   jobFlags, run: runLifecycle((*client.Client).StartInstance),
		},
		{
			name: "stop", args: "NAME…", group: groupInstances, min: 1, max: -1, asks: true,
			summary: "stop, and stay stopped",
			help:    `Disables and stops the server. A start of the same instance that is under way ends.` + jobHelp,
			flags:   jobFlags, run: runLifecycle((*client.Client).StopInstance),
		},
		{
			name: "restart", args: "NAME…", group: groupInstances, min: 1, max: -1, asks: true,
			summary: "stop, render and start again",
			help:    `Stops the server, renders it as it is defined now, and starts it. What is stopped is started.` + jobHelp,
			flags:   jobFlags, run: runLifecycle((*client.Client).RestartInstance),
		},
		{
			name: "kill", args: "NAME…", group: groupInstances, min: 1, max: -1, asks: true,
			summary: "end every process at once, and stay stopped",
			help:    `Disables the server and ends all its processes with SIGKILL. It stays down.` + jobHelp,
			flags:   jobFlags, run: runLifecycle((*client.Client).KillInstance),
		},
		{
			name: "reset", args: "NAME…", group: groupInstances, min: 1, max: -1, asks: true,
			summary: "stop and remove all that the server wrote",
			help: `Stops the server and removes all that it wrote. The definition stays; the next start is like
the first.` + jobHelp,
			flags: jobFlags, run: runLifecycle((*client.Client).ResetInstance),
		},
		{
			name: "delete", args: "NAME…", group: groupInstances, min: 1, max: -1, asks: true,
			summary: "stop and remove an instance with all that is its own",
			help: `Stops the server and removes all that it wrote and its definition, and frees its port.
Deleting what is not there succeeds. It does not ask back.` + jobHelp,
			flags: jobFlags, run: runLifecycle((*client.Client).DeleteInstance),
		},
		{
			name: "apply", group: groupHost, asks: true,
			summary: "make overlays, blueprints and instances match a file",
			help: `Creates what the file has and this host has not, and changes what differs. A line is printed
for each change. What the file does not have stays, and is told; with --prune it is deleted,
running instances too. Nothing is started or restarted: which instances ask for a restart is
told at the end. After an error the same command goes on with what is left.

The file is YAML and strict, all of it is checked before the first change, and export writes
one. What is not in it is the default; an instance without a port keeps the one it has, or
gets the next free one.

  overlays:
    sourcemod: {keep: 2, from: ./sourcemod}   # older revisions kept; what it is filled with
    maps: {type: workshop, items: [123456789]}
  blueprints:
    versus:                                   # overlays, arguments, config, limits
      overlays: [{path: sourcemod, alias: "*"}]
      config: [sv_cheats 0]
  instances:
    versus-1:                                 # what a spec file has: left4ctl help initialize
      blueprint: versus
      port: 27020

from is a directory or an archive, relative to the file. It is imported only when apply
itself makes the overlay, never later: left4ctl overlay import does that. What is built, as the
items of the workshop, is not built by apply: left4ctl overlay build does that.`,
			flags: applyFlags, run: runApply,
		}, {
			name: "export", args: "[NAME]…", group: groupHost, max: -1, asks: true,
			summary: "write a file that apply reads",
			help: `Writes what overlays, blueprints and instances are defined as, or only the named instances
with the blueprints and overlays that they need. Neither the files of overlays nor any
password is in it. On the same host, apply with it changes nothing.` + showHelp,
			run: runExport,
		}, {
			name: "list", args: "[NAME]…", group: groupLook, max: -1, hosts: true,
			summary: "list the instances",
			help: `Lists the instances, or those that are named. A NAME may be a pattern with *, ? and […], in
quotes so that the shell leaves it alone.` + hostsHelp + `

--json prints an array of objects with name, label, state (stopped, starting, running,
stopping, restarting, failed), desired_state (running, stopped), cause, blueprint ("" for
none), port, object (the path on the bus), overlays (name and alias, highest precedence
first), unit, owner (uid), owner_name ("" for none), drifted, pending_restart, pending_cause,
main_pid (0 for none), state_since (RFC 3339, or null), restarts, limits (as in a unit file)
and job (what is at work on it: id, kind, target, state, progress from 0 to 1 or null, and
status; or null), and host if several were given.`,
			flags: listFlags, run: runList,
		},
		{
			name: "status", args: "[NAME]…", group: groupLook, max: -1, hosts: true,
			summary: "show instances and their last log lines, or left4d itself",
			help: `Shows all that is known of an instance, and the newest lines of its log; overlays and limits
are those that it has of its blueprint, too. Without a NAME it shows the version of left4d,
the game, which instances need somebody and why, and the jobs that are under way.` + showHelp + hostsHelp + `
With --host the log is left out if -n is not given, and always with several.

The exit status is 3 if the instance is stopped or failed, 4 if there is none of that name;
of several it is that of the first that has one.

--json prints an object with the fields of list. For several, or a pattern, it is an array
of them. Without a NAME the fields are version, since (RFC 3339, or null), game_revision (0
for none), instances, states (how many instances are in each), attention (an array with the
fields of list) and jobs (an array with those of job in list), and host if several were
given, of which it is an array.`,
			flags: statusFlags, run: runStatus,
		},
		{
			name: "logs", args: "[NAME]…", group: groupLook, max: -1,
			summary: "show what servers wrote",
			help: `Shows the journal of the servers' units, or of all of them, with journalctl, which shows all
of it only to root and the groups systemd-journal and adm. A NAME may be a pattern with *, ?
and […], in quotes so that the shell leaves it alone; what is gone still has its log by its
NAME.

With --all there is also what left4d and systemd wrote about it: mounts, jobs, who wanted
what. --cursor-file FILE goes on where the last call with this FILE ended.

-o json is journalctl's own: an object a line.`,
			flags: logsFlags, run: runLogs,
		},
		{
			name: "audit", args: "[NAME]…", group: groupLook, max: -1,
			summary: "tell who wanted to change what, and whether it was allowed",
			help: `Lists the calls that would have changed something, or told a secret, as left4d wrote them into
the journal, which shows them only to root and the groups systemd-journal and adm. With NAMEs,
or patterns with *, ? and […] in quotes, only what was about such instances, overlays and
blueprints. The newest comes last.

The exit status is 1 if not all of it may be read.

--json prints an object a line, with time (RFC 3339), uid (or null), user (its login name then,
"" for none), method, action (of polkit), result (allowed, refused, failed), error (its name on
the bus, or ""), instance, overlay, blueprint ("" for none), job (its number, or null), untold
(how many more of this user were refused before it and not written down), sender (on the bus),
message and cursor (of the journal).`,
			flags: auditFlagSet, run: runAudit,
		},
		{
			name: "monitor", args: "[NAME]…", group: groupLook, max: -1, hosts: true,
			summary: "print what happens, until Ctrl-C",
			help: `Prints a line for all that happens from now on: states of instances and why, changes of
definitions, overlays, the game, jobs with their steps, and when left4d goes and comes back.
With NAMEs, or patterns with *, ? and […] in quotes, only what is about such instances, overlays
and blueprints, and the jobs on them. It ends with Ctrl-C, or when nobody reads what it prints.` + hostsHelp + `

--json prints an object a line, and more of them: with time (RFC 3339), event (instance-added,
-changed, -state, -removed; blueprint-added, -changed, -removed; overlay-added, -changed,
-removed; job-added, -changed, -ended, -forgotten; game-changed; left4d-gone, left4d-back;
missed: events were lost, look again), name (of the instance, overlay or blueprint, or what a
job acts on), job (its number, or null), kind (of a job), old and new (states; revisions of the
game), cause, status (the step of a job), changed (names of properties as on the bus), and host
if several were given. What does not belong to an event is empty.`,
			flags: jsonFlag, run: runMonitor,
		},
		{
			name: "permissions", args: "[NAME]", group: groupLook, max: 1,
			summary: "tell what you may do",
			help: `Lists the actions that polkit knows of left4, and for each whether you may do it: yes, auth
(somebody would have to authenticate first) or no. With a NAME the actions about instances are
asked for that one. Nobody is asked for a password.

--json prints an array of objects with action and permission (yes, auth, no).`,
			flags: tableFlags, run: runPermissions,
		},
		{
			name: "preview", args: "NAME…", group: groupLook, min: 1, max: -1, asks: true,
			summary: "print the server.cfg of the next start",
			help: `Prints the server.cfg that the next start would give, each line with where it comes from.
Passwords are blanked. If several are asked for, a line ==> NAME <== stands before each.` + showHelp,
			run: runPreview,
		},
		{
			name: "secret", args: "NAME [KEY]", group: groupLook, min: 1, max: 2, asks: true,
			summary: "print a secret of an instance, its rcon_password",
			help: `Prints a secret of an instance and nothing else. The KEY that there is, rcon_password, may be
left out. left4ctl configure NAME --new-rcon-password makes a new one.`,
			run: runSecret,
		},
		{
			name: "which", args: "NAME… PATH", group: groupLook, min: 2, max: -1, asks: true,
			summary: "tell which layers of an instance hold a file, and which wins",
			help: `Lists the layers that hold a path, the highest first: upper is what the server itself wrote,
then come the overlays and the game. One wins; a directory's content is merged from all that
are not hidden. PATH is written as for left4ctl overlay put.` + showHelp + `

The exit status is 1 if a server does not see such a file.

--json prints an array of objects with instance, layer, kind (file, directory, opaque, link,
whiteout, other), hidden and wins.`,
			flags: tableFlags, run: runWhich,
		},
		{
			name: "diff", args: "NAME…", group: groupLook, min: 1, max: -1, asks: true,
			summary: "list what a server itself changed",
			help: `Lists the files that a server itself added, changed, replaced or removed, against the layers
below it.` + showHelp + `

--json prints an array of objects with instance, path, change (added, changed, replaced,
removed) and size (bytes).`,
			flags: tableFlags, run: runDiff,
		},
		{
			name: "maps", args: "NAME…", group: groupLook, min: 1, max: -1, asks: true,
			summary: "list the maps that an instance or an overlay has",
			help: `Lists the maps in the layers of an instance, or, where there is none of that name, in an
overlay: those that the mission files of campaigns name, loose or in VPK files, and maps that no
campaign names. They are what +map takes among the arguments; create and configure warn of a
map that is not among them, and go on, since the game may know more.` + showHelp + `

--json prints an array of objects with name, map, campaign (its title, empty where none names
the map), modes (an array), layer (an overlay, or game) and file.`,
			flags: mapsFlags, run: runMaps,
		},
		{
			name: "conflicts", args: "[BLUEPRINT]", group: groupLook, max: 1, asks: true,
			summary: "list the files that more than one overlay holds",
			help: `Lists the files that more than one overlay of a blueprint, or of an instance with --instance,
holds. The overlay that wins is named first.

--json prints an array of objects with path and overlays.`,
			flags: conflictsFlags, run: runConflicts,
		},
		{
			name: "blueprint create", args: "NAME", group: groupBlueprints, min: 1, max: 1, asks: true,
			summary: "define a blueprint that instances can follow",
			help: `Defines a blueprint: overlays, arguments, lines of server.cfg and limits that all instances
have that follow it (left4ctl create NAME --blueprint BLUEPRINT).`,
			flags: blueprintFlags, run: runBlueprintCreate,
		},
		{
			name: "blueprint configure", args: "NAME… [KEY=VALUE]…", group: groupBlueprints, min: 1, max: -1, asks: true,
			summary: "change a blueprint",
			help: `Changes what is given and leaves the rest. The servers that follow it have it from their next
start, limits at once. --dry-run prints the lines that would change and which servers would
then ask for a restart.

What the flags set can be written as KEY=VALUE too: arguments, config, overlays, and each
limit by its own name, as MemoryMax=2G.` + listHelp + patternHelp,
			flags: blueprintConfigureFlags, run: runBlueprintConfigure,
		},
		{
			name: "blueprint list", group: groupBlueprints,
			summary: "list the blueprints",
			help: `Lists the blueprints.

--json prints an array of objects with name, owner (uid), owner_name ("" for none), overlays
(name and alias, highest precedence first), limits (as in a unit file), instances (that follow
it) and object (the path on the bus).`,
			flags: tableFlags, run: runBlueprintList,
		},
		{
			name: "blueprint show", args: "NAME…", group: groupBlueprints, min: 1, max: -1,
			summary: "show a blueprint",
			help: `Shows all of a blueprint that you may see.` + showHelp + `

--json prints an object: the fields of blueprint list, and arguments and config (null if you
may not see them). For several, or a pattern, it is an array of them.`,
			flags: jsonFlag, run: runBlueprintShow,
		},
		{
			name: "blueprint delete", args: "NAME…", group: groupBlueprints, min: 1, max: -1, asks: true,
			summary: "remove a blueprint that nobody follows",
			help:    `Removes blueprints. One that instances follow stays. Deleting what is not there succeeds.` + patternHelp,
			run:     runBlueprintDelete,
		},
		{
			name: "overlay create", args: "NAME [KEY=VALUE]…", group: groupOverlays, min: 1, max: -1, asks: true,
			summary: "make an overlay",
			help: `Makes an overlay, a layer of files over the game that any number of instances can have. It is
empty until files are imported or put into it. One of type workshop has items and collections of
the Steam Workshop, each by its number or the address of its page; left4ctl overlay build
fetches them, as after left4ctl overlay create maps --item 123456789. One of type script has
--script FILE, which bash runs when the overlay is built; see left4ctl help overlay build. What
the flags set can be written as KEY=VALUE too: keep, items, script.`,
			flags: overlayCreateFlags, run: runOverlayCreate,
		},
		{
			name: "overlay configure", args: "NAME… [KEY=VALUE]…", group: groupOverlays, min: 1, max: -1, asks: true,
			summary: "change what defines an overlay",
			help: `Changes how many revisions older than the current one stay on disk for a rollback (whatever an
instance needs stays besides), the items of one of type workshop, and the script of one of type
script. What the flags set can be written as KEY=VALUE too: keep, items, script. The items are
replaced as a whole, by as many as are given; items= takes all away. left4ctl overlay build
then makes the files anew.` + patternHelp,
			flags: layerFlags, run: runOverlayConfigure,
		},
		{
			name: "overlay import", args: "NAME DIR|FILE", group: groupOverlays, min: 2, max: 2, asks: true, files: true,
			summary: "give an overlay the files of a directory or an archive",
			help: `Makes a new revision of an overlay from a directory, or from an archive: .zip, .7z or .tar, that
plain or as .tar.gz, .tar.zst, .tar.xz or .tar.bz2. It is read with your own rights, and replaces
all that the overlay held; with --merge it is put over it. What is made to be unpacked in the
game's own directory, as Metamod and SourceMod, goes there by --into left4dead2. A .vpk file, and
a .zip or .7z that holds nothing but .vpk files at its top, as map sites have them, goes to
left4dead2/addons if --into says nothing else. Servers have it from their next start; what runs
goes on with what it has. A directory is packed by this command, so the import ends with it.`,
			flags: overlayImportFlags, run: runOverlayImport,
		},
		{
			name: "overlay build", args: "NAME…", group: groupOverlays, min: 1, max: -1, asks: true,
			summary: "build an overlay that is built and not imported",
			help: `Makes a new revision of an overlay whose type makes its files itself. For one of type workshop
what is new is fetched; where nothing is, no revision is made. An item that is not to be had is
told, and the file that there was of it stays.

The script of one of type script is run by bash with -eu and -o pipefail, as user left4, in an
empty directory (or, --on-top, in one with copies of the current files) which becomes the
revision. It reaches the internet but neither this machine nor private networks, sees no file
but those of the system, and has an hour, 4 GiB of memory (with 1 GiB in $TMPDIR), 512
processes, 2 CPUs and 20 GiB of disk. $LEFT4_OVERLAY is the overlay's name. A line that begins
with "::status " tells what it is at. -f shows what it prints.` + jobHelp,
			flags: overlayBuildFlags, run: runOverlayBuild,
		},
		{
			name: "overlay refresh", args: "[NAME]…", group: groupOverlays, max: -1, asks: true,
			summary: "fetch what is new in the workshop",
			help: `Builds the overlays of type workshop, or those that are named, again. left4-refresh.timer does it
each night, once it is enabled: systemctl enable --now left4-refresh.timer.` + jobHelp,
			flags: jobFlags, run: runOverlayRefresh,
		},
		{
			name: "overlay items", args: "NAME", group: groupOverlays, min: 1, max: 1, asks: true,
			summary: "list the items of the workshop that an overlay has",
			help: `Lists the items that an overlay of type workshop was built of: what has become of each, the name
of its file in left4dead2/addons, and why it was not to be had the last time.

--json prints an array of objects with id, title, file ("" for none), state (present; kept, as
an earlier revision had it; missing), cause (why it was not to be had), size (bytes) and updated
(by its author, RFC 3339, or null).`,
			flags: overlayItemsFlags, run: runOverlayItems,
		},
		{
			name: "overlay list", group: groupOverlays,
			summary: "list the overlays",
			help: `Lists the overlays.

--json prints an array of objects with name, id, type, owner (uid), owner_name ("" for none),
state (ready, building, failed, empty), cause, revision (the current one, 0 for none), files,
size (bytes) and object (the path on the bus).`,
			flags: tableFlags, run: runOverlayList,
		},
		{
			name: "overlay show", args: "NAME…", group: groupOverlays, min: 1, max: -1,
			summary: "show an overlay",
			help: `Shows all of an overlay that you may see.` + showHelp + `

--json prints an object: the fields of overlay list, keep (null if you may not see it), items
and script (null too where it has none) and revisions (as overlay revisions prints them,
without overlay). For several, or a pattern, it is an array of them.`,
			flags: jsonFlag, run: runOverlayShow,
		},
		{
			name: "overlay revisions", args: "NAME…", group: groupOverlays, min: 1, max: -1,
			summary: "list the revisions of an overlay that are on disk",
			help: `Lists the revisions that are on disk, the oldest first.` + showHelp + `

--json prints an array of objects with overlay, revision, current, published (RFC 3339, or
null), files and size (bytes).`,
			flags: tableFlags, run: runOverlayRevisions,
		},
		{
			name: "overlay rollback", args: "NAME [REVISION]", group: groupOverlays, min: 1, max: 2, asks: true,
			summary: "make an older revision the current one",
			help: `Makes REVISION, or the next older one that is on disk, the current one. Servers have it from
their next start.`,
			run: runOverlayRollback,
		},
		{
			name: "overlay delete", args: "NAME…", group: groupOverlays, min: 1, max: -1, asks: true,
			summary: "remove an overlay that nobody uses",
			help: `Removes overlays with all their revisions. One that an instance or blueprint names stays.
Deleting what is not there succeeds. It does not ask back.` + jobHelp,
			flags: jobFlags, run: runOverlayDelete,
		},
		{
			name: "overlay ls", args: "NAME [PATH]", group: groupFiles, min: 1, max: 2, asks: true,
			summary: "list a directory of an overlay",
			help: `Lists what a directory of an overlay holds, the top if there is no PATH.
` + pathHelp + `

--json prints an array of objects with name, kind (file, directory, link), size (bytes) and
modified (RFC 3339, or null).`,
			flags: lsFlags, run: runOverlayLs,
		},
		{
			name: "overlay get", args: "NAME PATH [FILE]", group: groupFiles, min: 2, max: 3, asks: true, files: true,
			summary: "read a file of an overlay",
			help: `Prints a file, or writes it to FILE, or into FILE if that is a directory. What a terminal would
not show as it is, is not printed on one.` + pathHelp,
			flags: revisionFlag, run: runOverlayGet,
		},
		{
			name: "overlay put", args: "NAME PATH [FILE]", group: groupFiles, min: 2, max: 3, asks: true, files: true,
			summary: "write one file of an overlay",
			help: `Makes a new revision in which PATH is what FILE, or standard input, holds. A PATH that ends in
/ is a directory, in which the file keeps its name.` + pathHelp,
			run: runOverlayPut,
		},
		{
			name: "overlay edit", args: "NAME PATH", group: groupFiles, min: 2, max: 2, asks: true, files: true,
			summary: "edit one file of an overlay",
			help: `Opens a file with $VISUAL, $EDITOR, editor or vi, and makes a new revision of what you saved. If
nothing has changed there is none. A file that is not there is made. If somebody else has
changed it meanwhile, what you wrote is kept in a file and its name is told.` + pathHelp,
			run: runOverlayEdit,
		},
		{
			name: "overlay mkdir", args: "NAME PATH", group: groupFiles, min: 2, max: 2, asks: true, files: true,
			summary: "make a directory in an overlay",
			help:    `Makes a new revision with an empty directory, and those above it.` + pathHelp,
			run:     runOverlayMkdir,
		},
		{
			name: "overlay rm", args: "NAME PATH…", group: groupFiles, min: 2, max: -1, asks: true, files: true,
			summary: "remove files from an overlay",
			help:    `Makes a new revision without these files, or directories with -r.` + pathHelp,
			flags:   removeFlags, run: runOverlayRm,
		},
		{
			name: "game install", group: groupGame, asks: true,
			summary: "install the game from Steam, or update it",
			help: `Has SteamCMD install the newest build of the game. left4d.conf(5) says where SteamCMD is; where
it fails, DepotDownloader is tried if there is one. Servers that run go on with their files, and
have the new ones from their next start. Where the newest build is there already, nothing
changes. What is interrupted goes on with what it has got.

Progress is Steam's own. Ctrl-C ends the waiting, not the work.`,
			flags: jobFlags, run: runGame,
		},
		{
			name: "game update", group: groupGame, asks: true,
			summary: "update the game from Steam",
			help: `As game install, of a game that is installed. The new revision holds only what is other than
in the last one; left4ctl game rollback goes back to that.`,
			flags: jobFlags, run: runGame,
		},
		{
			name: "game check", group: groupGame, asks: true,
			summary: "ask Steam for the newest build of the game",
			help: `Asks Steam which build is the newest one, and changes nothing.

--json prints an object with revision (0 as long as no game is installed), installed, available
(builds as Steam numbers them, "" where one is not known) and update (they are not the same).`,
			flags: gameCheckFlags, run: runGameCheck,
		},
		{
			name: "game validate", group: groupGame, asks: true,
			summary: "have Steam look at every file of the game",
			help: `Has SteamCMD look at every file and fetch what is not as it should be, as a new revision.
Where nothing has to be changed there is none.`,
			flags: jobFlags, run: runGame,
		},
		{
			name: "game import", args: "DIR|FILE", group: groupGame, min: 1, max: 1, asks: true, files: true,
			summary: "install the game from a directory or an archive",
			help: `Makes a new revision of the game from a directory, or from an archive: .zip, .7z or .tar, that
plain or as .tar.gz, .tar.zst, .tar.xz or .tar.bz2. It is read with your own rights. Servers have
it from their next start. A directory is packed by this command, so the import ends with it;
--no-wait stays until all is packed.`,
			flags: jobFlags, run: runImport,
		},
		{
			name: "game revisions", group: groupGame,
			summary: "list the revisions of the game that are on disk",
			help: `Lists the revisions that are on disk, the oldest first.

--json prints an array of objects as overlay revisions does, without overlay.`,
			flags: tableFlags, run: runGameRevisions,
		},
		{
			name: "game rollback", args: "[REVISION]", group: groupGame, max: 1, asks: true,
			summary: "make an older revision of the game the current one",
			help: `Makes REVISION, or the next older one that is on disk, the current one. Servers have it from
their next start.`,
			run: runGameRollback,
		},
		{
			name: "job list", group: groupJobs,
			summary: "list the newest jobs",
			help: `Lists the newest jobs, the newest last.

--json prints an array of objects with id, kind, target, state (queued, running, done,
failed, canceled, timeout, skipped), cause and object (the path on the bus).`,
			flags: jobListFlags, run: runJobList,
		},
		{
			name: "job show", args: "ID…", group: groupJobs, min: 1, max: -1,
			summary: "show a job",
			help: `Shows all that is known of a job.

--json prints an object: the fields of job list, and progress (0 to 1, or null), status (the
step it is at), requester (uid), requester_name ("" for none), timeout (seconds, or null),
created, started, finished (RFC 3339, or null), cancelable. For several it is an array.`,
			flags: jsonFlag, run: runJobShow,
		},
		{
			name: "job cancel", args: "ID…", group: groupJobs, min: 1, max: -1, asks: true,
			summary: "end a job",
			help:    `Asks for the end of a job that is queued or running.`,
			run:     runJobCancel,
		},
		{
			name: "job wait", args: "ID…", group: groupJobs, min: 1, max: -1,
			summary: "wait until a job has ended",
			help: `Follows jobs to their ends and shows their steps. The exit status is 1 if one of them did not do
what it was asked for. ID may also be a path, as --no-wait prints it. Ctrl-C ends the waiting,
not the job.`,
			run: runJobWait,
		},
		{
			name: "doctor", args: "[PROBLEM]…", group: groupOther, max: -1, asks: true,
			summary: "look for problems, and repair them",
			help: `Looks for what is not as left4d has left it, or would want it: files, mounts and servers that
nothing is known of, as after the loss of the database; what is known and is not there; a
database that was restored from its backup. It also looks at the machine: 32-bit libraries,
disks, overlayfs, ports, slices, polkit, settings, versions; there it tells the command that
mends what is wrong. With PROBLEMs only for those, each as it is listed, or a kind for all of
it. If left4d itself does not run, it tells why.

--repair repairs them. What nothing is known of is defined again, as far as what is there
tells how; what is gone is forgotten; a loss that was told is not told any more. A repair
removes nothing that anybody could want, and stops and starts no server. What is not to come
back is removed by left4ctl delete and left4ctl overlay delete.

The exit status is 1 if there are, or are left, problems other than notices.

--json prints an array of objects with problem (what --repair takes), kind, name, severity
(error, warning, notice), what, and repair (what a repair would do, "" where only a person can
mend it).`,
			flags: doctorFlags, run: runDoctor,
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
