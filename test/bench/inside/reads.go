package main

import (
	"fmt"
	"slices"

	"left4.me/left4/dbus/names"
	"left4.me/left4/test/report"
)

// reads are rows 5 and 6, with n instances that run.
func (b *bench) reads(n int) {
	b.quiet()
	took := b.raw.timed(b.Calls,
		message(names.Service, names.Root, names.Manager, "GetInstance", lightName(0)),
		message(names.Service, names.InstancePath(lightName(0)), names.Properties, "Get", names.Instance, "State"),
		message(names.Service, names.Root, names.Peer, "Ping"))
	instance, get, ping := took[0], took[1], took[2]
	b.row(fmt.Sprintf("5 GetInstance, Get, %d loaded", n), slices.Concat(
		instance.figures("GetInstance"), get.figures("Get"), ping.figures("Ping"),
		[]report.Figure{times(max(ratio(instance, ping), ratio(get, ping)))},
	), "≤ 1.3 ×", ratio(instance, ping) <= 1.3 && ratio(get, ping) <= 1.3, "")

	took = b.raw.timed(max(b.Calls/30, 5),
		message(names.Service, names.Root, names.Manager, "ListInstances", none),
		message(systemd, managerPath, managerI, "ListUnitsByPatterns", []string{}, []string{"left4-server@*"}),
		message(systemd, managerPath, managerI, "ListUnits"))
	ours, few, all := took[0], took[1], took[2]
	goal := ""
	if n == b.Loaded[len(b.Loaded)-1] {
		goal = "≤ 0.5 ×"
	}
	b.row(fmt.Sprintf("6 ListInstances, %d loaded", n), slices.Concat(
		ours.figures("left4"), few.figures("systemd, as many units"), all.figures("all its units"), []report.Figure{times(ratio(ours, few))},
	), goal, ratio(ours, few) <= 0.5, "")
	b.plot("list", "ListInstances", n, float64(ours.p50().Microseconds())/1000)
	b.plot("list", "ListUnits of as many", n, float64(few.p50().Microseconds())/1000)
}

// list is row 13.
func (b *bench) list(n int) {
	var ours, theirs samples
	for range b.Rounds {
		ours = append(ours, timed("left4ctl", "list"))
		theirs = append(theirs, timed("systemctl", "--no-pager", "list-units", "left4-server@*"))
	}
	b.row(fmt.Sprintf("13 left4ctl list of %d, the whole process", n), slices.Concat(
		ours.figures("left4ctl"), theirs.figures("systemctl list-units"), []report.Figure{times(ratio(ours, theirs))},
	), "≤ 1.0 ×", ratio(ours, theirs) <= 1, "")
}
