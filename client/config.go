package client

import (
	"fmt"
	"maps"
	"slices"

	"github.com/godbus/dbus/v5"
)

// Unlimited is the value of a limit that does not limit.
const Unlimited = ^uint64(0)

// Config is the definition of an instance, or a part of it: what is nil is not sent. An empty list that is not nil is
// sent, and empties the list. That of a blueprint has arguments, lines, overlays and limits only.
type Config struct {
	Blueprint *string // "": none
	Port      *uint16 // 0: the next free one
	Label     *string
	Hostname  *string
	Arguments []string // launch arguments, one each
	Lines     []string // of server.cfg; the key is "config"
	Overlays  []Overlay
	Restart   *string // always, on-failure, no
	Limits    *Limits
}

// Overlay is one layer of an instance or a blueprint.
type Overlay struct {
	Name  string
	Alias string // "": its server.cfg is hidden, "*": staged as server_overlay_<id>, else as that name
}

// Limits are resource limits with systemd's names; nil is the default, Unlimited is none.
type Limits struct {
	MemoryMax          *uint64 // bytes
	MemoryHigh         *uint64 // bytes
	CPUQuotaPerSecUSec *uint64 // microseconds of CPU time per second: 1500000 is one and a half CPUs
	AllowedCPUs        []byte  // bit n of byte n/8 is CPU n
	TasksMax           *uint64
}

// Empty tells that the config has no key.
func (c Config) Empty() bool { return len(c.variants()) == 0 }

func (c Config) variants() map[string]dbus.Variant {
	m := map[string]dbus.Variant{}
	if c.Port != nil {
		m["port"] = dbus.MakeVariant(*c.Port)
	}
	for key, text := range map[string]*string{"blueprint": c.Blueprint, "label": c.Label, "hostname": c.Hostname, "restart": c.Restart} {
		if text != nil {
			m[key] = dbus.MakeVariant(*text)
		}
	}
	if c.Arguments != nil {
		m["arguments"] = dbus.MakeVariant(c.Arguments)
	}
	if c.Lines != nil {
		m["config"] = dbus.MakeVariant(c.Lines)
	}
	if c.Overlays != nil {
		m["overlays"] = dbus.MakeVariant(c.Overlays)
	}
	if c.Limits != nil {
		m["limits"] = dbus.MakeVariant(c.Limits.variants())
	}
	return m
}

func decodeConfig(values map[string]dbus.Variant) (Config, error) {
	var c Config
	for _, key := range slices.Sorted(maps.Keys(values)) {
		var err error
		v := []any{values[key].Value()}
		switch key {
		case "blueprint":
			c.Blueprint = new(string)
			err = dbus.Store(v, c.Blueprint)
		case "port":
			c.Port = new(uint16)
			err = dbus.Store(v, c.Port)
		case "label":
			c.Label = new(string)
			err = dbus.Store(v, c.Label)
		case "hostname":
			c.Hostname = new(string)
			err = dbus.Store(v, c.Hostname)
		case "restart":
			c.Restart = new(string)
			err = dbus.Store(v, c.Restart)
		case "arguments":
			c.Arguments = []string{}
			err = dbus.Store(v, &c.Arguments)
		case "config":
			c.Lines = []string{}
			err = dbus.Store(v, &c.Lines)
		case "overlays":
			c.Overlays = []Overlay{}
			err = dbus.Store(v, &c.Overlays)
		case "limits":
			var limits map[string]dbus.Variant
			if err = dbus.Store(v, &limits); err != nil {
				break
			}
			l, unknown, bad := decodeLimits(limits)
			if unknown != "" {
				bad = fmt.Errorf("this client does not know the limit %q: it is older than left4d", unknown)
			}
			c.Limits, err = &l, bad
		default:
			// To leave it out would lose it when the config is sent back.
			return Config{}, unknownKey(key)
		}
		if err != nil {
			return Config{}, fmt.Errorf("left4d sent config key %q: %w", key, err)
		}
	}
	return c, nil
}

func unknownKey(key string) error {
	return fmt.Errorf("this client does not know the config key %q: it is older than left4d", key)
}

func (l *Limits) numbers() map[string]**uint64 {
	return map[string]**uint64{
		"MemoryMax":          &l.MemoryMax,
		"MemoryHigh":         &l.MemoryHigh,
		"CPUQuotaPerSecUSec": &l.CPUQuotaPerSecUSec,
		"TasksMax":           &l.TasksMax,
	}
}

func (l Limits) variants() map[string]dbus.Variant {
	m := map[string]dbus.Variant{}
	for key, n := range l.numbers() {
		if *n != nil {
			m[key] = dbus.MakeVariant(**n)
		}
	}
	if l.AllowedCPUs != nil {
		m["AllowedCPUs"] = dbus.MakeVariant(l.AllowedCPUs)
	}
	return m
}

// decodeLimits also returns one key that it does not know, if there is any.
func decodeLimits(values map[string]dbus.Variant) (l Limits, unknown string, err error) {
	numbers := l.numbers()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		v := []any{values[key].Value()}
		if n, ok := numbers[key]; ok {
			*n = new(uint64)
			err = dbus.Store(v, *n)
		} else if key == "AllowedCPUs" {
			l.AllowedCPUs = []byte{}
			err = dbus.Store(v, &l.AllowedCPUs)
		} else {
			unknown = key
		}
		if err != nil {
			return Limits{}, "", fmt.Errorf("left4d sent limit %s with another type than expected: %w", key, err)
		}
	}
	return l, unknown, nil
}
