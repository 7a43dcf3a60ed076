package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/test/report"
	"left4.me/left4/units"
)

// layers is row 12: a mount, by left4-overlay and by mount(8).
func (b *bench) layers() {
	const overlays = state + "/overlays/900000"
	for _, n := range b.Layers {
		name := fmt.Sprintf("layers%d", n)
		plan := units.Plan{Digest: "bench"}
		var lower []string // relative to state: 200 names must fit a page
		for i := range n {
			dir := fmt.Sprintf("overlays/900000/%d", i)
			check(os.MkdirAll(state+"/"+dir, 0o755))
			plan.Lower, lower = append(plan.Lower, dir), append(lower, fmt.Sprint(i))
		}
		_, err := layout.WriteInstance(name, plan, map[string][]byte{"server.cfg": []byte("sv_lan 0\n")})
		check(err)
		for _, dir := range []string{"upper", "work", "merged"} {
			check(os.MkdirAll("/var/lib/hand/"+dir, 0o755))
		}
		options := "index=off,metacopy=off,redirect_dir=nofollow,xino=off,upperdir=/var/lib/hand/upper,workdir=/var/lib/hand/work,lowerdir=" +
			strings.Join(lower, ":")
		var ours, theirs samples
		refused := ""
		for i := -1; i < b.Rounds; i++ { // the first one only warms up
			took := timed("/usr/libexec/left4/left4-overlay", "mount", name)
			timed("/usr/libexec/left4/left4-overlay", "umount", name)
			hand, err := inDir(overlays, "mount", "-t", "overlay", "-o", options, "overlay", "/var/lib/hand/merged")
			if err != nil {
				refused = err.Error()
				hand = 0
			} else {
				check(unix.Unmount("/var/lib/hand/merged", 0))
			}
			if i >= 0 {
				ours, theirs = append(ours, took), append(theirs, hand)
			}
		}
		figures, goal, met, note := ours.figures("left4-overlay"), "≤ 1.5 ×", false, "whole processes; names relative to the layers' directory for mount"
		if refused != "" {
			goal, note = "", "mount(8) refuses: "+refused
		} else {
			figures = slices.Concat(figures, theirs.figures("mount"), []report.Figure{times(ratio(ours, theirs))})
			met = ratio(ours, theirs) <= 1.5
		}
		b.row(fmt.Sprintf("12 mount of %d layers", n), figures, goal, met, note)
	}
}

// inDir is timed with a working directory, and with an error.
func inDir(dir string, argv ...string) (time.Duration, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	var errs strings.Builder
	cmd.Stderr = &errs
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return took, nil
}
