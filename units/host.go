package units

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Host is what systemd tells of the machine and of itself.
type Host struct {
	Version   string // of systemd, as "252.39-1~deb12u1"
	Container bool   // the machine is one
	BPF       bool   // systemd can keep a unit from network interfaces
	Slices    []Slice
}

// Slice is a slice of left4, which its units need to start.
type Slice struct {
	Name      string
	LoadState string // as in State
	CPU, IO   uint64 // weights, defaultWeight if none is set
}

// The slices of left4: that of servers, and that of all that has time.
const (
	GameSlice  = "left4-game.slice"
	BuildSlice = "left4-build.slice"
)

// defaultWeight is that of a unit that has none of its own, see systemd.resource-control(5).
const defaultWeight = 100

// containers are what systemd calls them, see systemd-detect-virt(1).
var containers = []string{"openvz", "lxc", "lxc-libvirt", "systemd-nspawn", "docker", "podman", "rkt", "wsl", "proot", "pouch", "container-other"}

// Host asks systemd. It has systemd load the slices.
func (s *Systemd) Host(ctx context.Context) (h Host, err error) {
	var virtualization, features string
	for name, to := range map[string]*string{"Version": &h.Version, "Virtualization": &virtualization, "Features": &features} {
		var value dbus.Variant
		if err := s.do(ctx, managerPath, propsIface+".Get", managerIface, name).Store(&value); err != nil {
			return h, fmt.Errorf("cannot ask systemd about the machine: %w", busError(err))
		}
		put(to, value)
	}
	h.Container = slices.Contains(containers, virtualization)
	h.BPF = slices.Contains(strings.Fields(features), "+BPF_FRAMEWORK")
	for _, name := range []string{GameSlice, BuildSlice} {
		slice, err := s.slice(ctx, name)
		if err != nil {
			return h, fmt.Errorf("cannot look at %s: %w", name, err)
		}
		h.Slices = append(h.Slices, slice)
	}
	return h, nil
}

const sliceIface = "org.freedesktop.systemd1.Slice"

func (s *Systemd) slice(ctx context.Context, name string) (Slice, error) {
	slice := Slice{Name: name, CPU: defaultWeight, IO: defaultWeight}
	var path dbus.ObjectPath
	if err := s.managerStore(ctx, &path, "LoadUnit", name); errors.Is(err, ErrMasked) {
		slice.LoadState = "masked"
		return slice, nil
	} else if err != nil {
		return slice, err
	}
	err := s.some(ctx, path, unitIface, func(p map[string]dbus.Variant) { put(&slice.LoadState, p["LoadState"]) }, "LoadState")
	if err != nil || slice.LoadState != "loaded" {
		return slice, err
	}
	return slice, s.some(ctx, path, sliceIface, func(p map[string]dbus.Variant) {
		putWeight(&slice.CPU, p["CPUWeight"])
		putWeight(&slice.IO, p["IOWeight"])
	}, "CPUWeight", "IOWeight")
}

// putWeight leaves a weight as it is where none is set, for which systemd has the highest number.
func putWeight(to *uint64, v dbus.Variant) {
	const most = 10_000
	if weight, ok := v.Value().(uint64); ok && weight <= most {
		*to = weight
	}
}
