package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
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
		mount := []string{"mount", "-t", "overlay", "-o", options, "overlay", "/var/lib/hand/merged"}
		note := "whole processes; by mount(8) from within the directory of the layers"
		if _, err := inDir(overlays, mount...); err != nil {
			// The new way to mount takes 255 bytes of names; mount(8) knows the old one too.
			mount = append([]string{"env", "LIBMOUNT_FORCE_MOUNT2=always"}, mount...)
			note += ", which refuses so many until LIBMOUNT_FORCE_MOUNT2 is set"
			_, err := inDir(overlays, mount...)
			check(err)
		}
		check(unix.Unmount("/var/lib/hand/merged", 0))
		var ours, theirs samples
		for i := -1; i < b.Rounds; i++ { // the first one only warms up
			took := timed("/usr/libexec/left4/left4-overlay", "mount", name)
			timed("/usr/libexec/left4/left4-overlay", "umount", name)
			hand, err := inDir(overlays, mount...)
			check(err)
			check(unix.Unmount("/var/lib/hand/merged", 0))
			if i >= 0 {
				ours, theirs = append(ours, took), append(theirs, hand)
			}
		}
		figures := slices.Concat(ours.figures("left4-overlay"), theirs.figures("mount"), []report.Figure{times(ratio(ours, theirs))})
		b.row(fmt.Sprintf("12 mount of %d layers", n), figures, "≤ 1.5 ×", ratio(ours, theirs) <= 1.5, note)
	}
}

// inDir is timed with a working directory, and with an error.
func inDir(dir string, argv ...string) (time.Duration, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
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
