// Package names holds the words of left4's bus face that its server and its clients share: the service, the
// interfaces, the error names and the way a name becomes an object path. It imports nothing of left4.
package names

import (
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
)

// The service, its objects and its interfaces. They are version 1 of the face: never renamed, only added to.
const (
	Service    = "me.left4"
	Root       = dbus.ObjectPath("/me/left4")
	Manager    = "me.left4.Manager"
	Instance   = "me.left4.Instance"
	Blueprint  = "me.left4.Blueprint"
	Overlay    = "me.left4.Overlay"
	Job        = "me.left4.Job"
	Error      = "me.left4.Error." // prefix of left4's own error names
	instances  = "/me/left4/instance/"
	blueprints = "/me/left4/blueprint/"
	overlays   = "/me/left4/overlay/"
	jobs       = "/me/left4/job/"
)

// Names of interfaces and errors that the D-Bus specification gives.
const (
	Bus             = "org.freedesktop.DBus"
	BusPath         = dbus.ObjectPath("/org/freedesktop/DBus")
	Properties      = "org.freedesktop.DBus.Properties"
	ObjectManager   = "org.freedesktop.DBus.ObjectManager"
	Introspectable  = "org.freedesktop.DBus.Introspectable"
	Peer            = "org.freedesktop.DBus.Peer"
	ErrAccessDenied = "org.freedesktop.DBus.Error.AccessDenied"
	ErrInteractive  = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
)

// The MESSAGE_ID= of left4d's entries in the journal that programs may look for (journalctl MESSAGE_ID=…). They are to be
// believed only with _SYSTEMD_UNIT=left4d.service, since anybody may write to the journal; me.left4(5) tells their fields.
const (
	// MessageCall is a call that would change something, and what became of it: LEFT4_METHOD=, LEFT4_ACTION=,
	// LEFT4_RESULT= (allowed, refused, failed), LEFT4_ERROR=, LEFT4_CALLER_UID=, LEFT4_CALLER=, LEFT4_SENDER=, LEFT4_UNTOLD=
	// (how many of that user were left out before it: refusals are bounded), and LEFT4_INSTANCE=,
	// LEFT4_OVERLAY=, LEFT4_BLUEPRINT= and LEFT4_JOB= where there is one.
	MessageCall = "f3a87de9a96b4a0f8d5e5d2f7c0b6e11"
	// MessageJob is the end of a job: LEFT4_JOB=, LEFT4_KIND=, LEFT4_RESULT=, LEFT4_CAUSE=, LEFT4_CALLER_UID=,
	// LEFT4_CALLER=, and LEFT4_INSTANCE=, LEFT4_OVERLAY= or, where it is about neither, LEFT4_TARGET=.
	MessageJob = "5b7f0c7d2c1e4d5f9f61f1c0b2a8d922"
	// MessageState is another state of an instance: LEFT4_INSTANCE=, LEFT4_STATE=, LEFT4_CAUSE=.
	MessageState = "c2d94e64f20c4b36a1f0a7e5d8b3f733"
)

// InstancePath is the object of an instance.
func InstancePath(name string) dbus.ObjectPath {
	return dbus.ObjectPath(instances + EscapeLabel(name))
}

// InstanceName is the name behind an instance's object; ok is false for any other path.
func InstanceName(path dbus.ObjectPath) (name string, ok bool) { return labelled(path, instances) }

// BlueprintPath is the object of a blueprint.
func BlueprintPath(name string) dbus.ObjectPath {
	return dbus.ObjectPath(blueprints + EscapeLabel(name))
}

// BlueprintName is the name behind a blueprint's object; ok is false for any other path.
func BlueprintName(path dbus.ObjectPath) (name string, ok bool) { return labelled(path, blueprints) }

// OverlayPath is the object of an overlay.
func OverlayPath(name string) dbus.ObjectPath {
	return dbus.ObjectPath(overlays + EscapeLabel(name))
}

// OverlayName is the name behind an overlay's object; ok is false for any other path.
func OverlayName(path dbus.ObjectPath) (name string, ok bool) { return labelled(path, overlays) }

func labelled(path dbus.ObjectPath, below string) (name string, ok bool) {
	label, ok := strings.CutPrefix(string(path), below)
	if !ok {
		return "", false
	}
	return UnescapeLabel(label)
}

// JobPath is the object of a job.
func JobPath(id uint32) dbus.ObjectPath {
	return dbus.ObjectPath(jobs + strconv.FormatUint(uint64(id), 10))
}

// JobID is the id behind a job's object; ok is false for any other path.
func JobID(path dbus.ObjectPath) (id uint32, ok bool) {
	digits, ok := strings.CutPrefix(string(path), jobs)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != digits {
		return 0, false
	}
	return uint32(n), true
}

// EscapeLabel makes one element of an object path from any string as systemd's bus_label_escape does: letters and
// digits stay, a digit at the start and every other byte become _ and two hexadecimal digits, nothing becomes "_".
func EscapeLabel(s string) string {
	if s == "" {
		return "_"
	}
	const hex = "0123456789abcdef"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if letter || i > 0 && c >= '0' && c <= '9' {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'_', hex[c>>4], hex[c&15]})
	}
	return b.String()
}

// UnescapeLabel is the reverse of EscapeLabel. It takes only what EscapeLabel gives, so that an object has one path.
func UnescapeLabel(label string) (s string, ok bool) {
	if label == "_" {
		return "", true
	}
	var b strings.Builder
	for i := 0; i < len(label); i++ {
		if label[i] != '_' {
			b.WriteByte(label[i])
			continue
		}
		if i+2 >= len(label) {
			return "", false
		}
		c, err := strconv.ParseUint(label[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), EscapeLabel(b.String()) == label
}
