package dbus

import (
	"fmt"
	"math"
	"sort"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/daemon"
	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// dict reads an a{sv}: each key once, each of the type it must have, and none that nobody asked for.
type dict struct {
	what string // what it is called in an error
	rest map[string]dbus.Variant
	err  error
}

func newDict(what string, v any) *dict {
	rest := map[string]dbus.Variant{}
	for key, value := range v.(map[string]dbus.Variant) {
		rest[key] = value
	}
	return &dict{what: what, rest: rest}
}

// take removes a key and returns its value where it is there and of type T, whose signature is named for the error.
func take[T any](d *dict, key, signature string) *T {
	v, ok := d.rest[key]
	if !ok {
		return nil
	}
	delete(d.rest, key)
	value, ok := v.Value().(T)
	if !ok {
		d.fail("%s %q must be of type %s, not %s", d.what, key, signature, v.Signature().String())
		return nil
	}
	return &value
}

// value is that of a key which is not there, too.
func value[T any](taken *T) (v T) {
	if taken != nil {
		v = *taken
	}
	return v
}

func (d *dict) fail(format string, args ...any) {
	if d.err == nil {
		d.err = &daemon.Error{Code: daemon.InvalidArgument, Message: fmt.Sprintf(format, args...)}
	}
}

// end returns the first error; a key that is left is one.
func (d *dict) end() error {
	if d.err == nil && len(d.rest) > 0 {
		var keys []string
		for key := range d.rest {
			keys = append(keys, key)
		}
		sort.Strings(keys)
		d.fail("%s %q is not known", d.what, shorten(keys[0]))
	}
	return d.err
}

// shorten keeps what a caller made up short in errors, which stand in the journal too.
func shorten(text string) string {
	if len(text) > 80 {
		return text[:80] + "…"
	}
	return text
}

// changes reads a config.
func changes(v any) (daemon.Changes, error) {
	c, err := readChanges(v)
	if err != nil {
		return c, err
	}
	return c, c.Check()
}

// blueprintChanges reads a config of a blueprint.
func blueprintChanges(v any) (daemon.Changes, error) {
	c, err := readChanges(v)
	if err != nil {
		return c, err
	}
	return c, c.CheckBlueprint()
}

func readChanges(v any) (daemon.Changes, error) {
	d := newDict("config key", v)
	c := daemon.Changes{
		Blueprint: take[string](d, "blueprint", "s"),
		Port:      take[uint16](d, "port", "q"),
		Label:     take[string](d, "label", "s"),
		Hostname:  take[string](d, "hostname", "s"),
		Arguments: take[[]string](d, "arguments", "as"),
		Config:    take[[]string](d, "config", "as"),
		Restart:   take[string](d, "restart", "s"),
	}
	if rows := take[[][]any](d, "overlays", "a(ss)"); rows != nil {
		overlays := make([]store.OverlayRef, len(*rows))
		for i, row := range *rows {
			overlay, ok1 := at[string](row, 0)
			alias, ok2 := at[string](row, 1)
			if !ok1 || !ok2 || len(row) != 2 {
				d.fail(`config key "overlays" must be of type a(ss)`)
				break
			}
			overlays[i] = store.OverlayRef{Overlay: overlay, Alias: alias}
		}
		c.Overlays = &overlays
	}
	if limits := take[map[string]dbus.Variant](d, "limits", "a{sv}"); limits != nil {
		l, err := readLimits(*limits)
		if err != nil {
			return c, err
		}
		c.Limits = &l
	}
	return c, d.end()
}

// overlayChanges reads a config of an overlay.
func overlayChanges(v any) (daemon.OverlayChanges, error) {
	d := newDict("config key", v)
	c := daemon.OverlayChanges{
		Keep: take[uint32](d, "keep", "u"), Items: take[[]string](d, "items", "as"), Script: take[string](d, "script", "s"),
	}
	return c, d.end()
}

// overlayConfig writes what overlayChanges reads.
func overlayConfig(c store.OverlayConfig) map[string]dbus.Variant {
	v := map[string]dbus.Variant{}
	if c.Keep != nil {
		v["keep"] = dbus.MakeVariant(*c.Keep)
	}
	if len(c.Items) > 0 {
		v["items"] = dbus.MakeVariant(c.Items)
	}
	if c.Script != "" {
		v["script"] = dbus.MakeVariant(c.Script)
	}
	return v
}

func at[T any](row []any, i int) (value T, ok bool) {
	if i < len(row) {
		value, ok = row[i].(T)
	}
	return value, ok
}

func readLimits(v map[string]dbus.Variant) (units.Limits, error) {
	d := newDict("limit", v)
	l := units.Limits{
		MemoryMax:          take[uint64](d, "MemoryMax", "t"),
		MemoryHigh:         take[uint64](d, "MemoryHigh", "t"),
		TasksMax:           take[uint64](d, "TasksMax", "t"),
		CPUQuotaPerSecUSec: take[uint64](d, "CPUQuotaPerSecUSec", "t"),
	}
	if mask := take[[]byte](d, "AllowedCPUs", "ay"); mask != nil {
		l.AllowedCPUs = *mask
	}
	return l, d.end()
}

func writeLimits(l units.Limits) map[string]dbus.Variant {
	v := map[string]dbus.Variant{}
	for key, value := range map[string]*uint64{
		"MemoryMax": l.MemoryMax, "MemoryHigh": l.MemoryHigh, "TasksMax": l.TasksMax, "CPUQuotaPerSecUSec": l.CPUQuotaPerSecUSec,
	} {
		if value != nil {
			v[key] = dbus.MakeVariant(*value)
		}
	}
	if l.AllowedCPUs != nil {
		v["AllowedCPUs"] = dbus.MakeVariant(l.AllowedCPUs)
	}
	return v
}

// pair is a (ss).
type pair struct{ A, B string }

func writeOverlays(overlays []store.OverlayRef) []pair {
	pairs := make([]pair, len(overlays))
	for i, o := range overlays {
		pairs[i] = pair{o.Overlay, o.Alias}
	}
	return pairs
}

// revision is a (uttt).
type revision struct {
	ID                      uint32
	Published, Files, Bytes uint64
}

func writeRevisions(all []store.Revision) []revision {
	rows := make([]revision, len(all))
	for i, r := range all {
		rows[i] = revision{r.ID, uint64(r.Published), r.Files, r.Bytes}
	}
	return rows
}

// blueprintConfig writes what blueprintChanges reads.
func blueprintConfig(b store.Blueprint) map[string]dbus.Variant {
	return map[string]dbus.Variant{
		"arguments": dbus.MakeVariant(b.Arguments.V),
		"config":    dbus.MakeVariant(b.Config.V),
		"overlays":  dbus.MakeVariant(writeOverlays(b.Overlays.V)),
		"limits":    dbus.MakeVariant(writeLimits(b.Limits.V)),
	}
}

// config writes what changes reads.
func config(def store.Instance) map[string]dbus.Variant {
	return map[string]dbus.Variant{
		"blueprint": dbus.MakeVariant(def.Blueprint),
		"port":      dbus.MakeVariant(def.Port),
		"label":     dbus.MakeVariant(def.Label),
		"hostname":  dbus.MakeVariant(def.Hostname),
		"arguments": dbus.MakeVariant(def.Arguments.V),
		"config":    dbus.MakeVariant(def.Config.V),
		"overlays":  dbus.MakeVariant(writeOverlays(def.Overlays.V)),
		"restart":   dbus.MakeVariant(def.Restart),
		"limits":    dbus.MakeVariant(writeLimits(def.Limits.V)),
	}
}

// timeout reads the options of a method that makes a job. 0 is the kind's own deadline, so a caller cannot mean it.
func (d *dict) timeout() time.Duration {
	us := take[uint64](d, "timeout", "t")
	if us == nil {
		return 0
	}
	if *us == 0 || *us > uint64(math.MaxInt64/time.Microsecond) || time.Duration(*us)*time.Microsecond > daemon.MaxTimeout {
		d.fail("option \"timeout\" of %d µs is not allowed: use 1 to %d", *us, daemon.MaxTimeout.Microseconds())
		return 0
	}
	return time.Duration(*us) * time.Microsecond
}
