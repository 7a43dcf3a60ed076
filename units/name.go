package units

import (
	"strconv"
	"strings"
)

const (
	serverPrefix  = "left4-server@"
	overlayPrefix = "left4-overlay@"
	// buildPrefix begins the names of the transient units that StartWorker runs.
	buildPrefix   = "left4-build-"
	serviceSuffix = ".service"

	// serverTemplate is where the package installs the template that an enabled instance's link points to.
	serverTemplate = "/usr/lib/systemd/system/left4-server@.service"
)

// ValidName reports whether name may name an instance, a blueprint or an overlay: ^[a-z0-9][a-z0-9_-]{0,63}$.
// Such a name needs no escaping in unit names (as %i, not %I, which turns "-" into "/"), in file names and in a drop-in.
// (Not a regexp: making that takes a tenth of what left4-overlay takes as a whole.)
func ValidName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '-'):
		default:
			return false
		}
	}
	return 0 < len(name) && len(name) <= 64
}

// GameMount stands in place of an instance's name where the files of the game are mounted for the worker that changes them. No
// instance can have that name.
const GameMount = "_game"

// mountable tells whether there can be a plan and a mount of this name.
func mountable(name string) bool { return name == GameMount || ValidName(name) }

// BuildUnit is the unit of the worker that works for a job.
func BuildUnit(job uint32) string {
	return buildPrefix + strconv.FormatUint(uint64(job), 10) + serviceSuffix
}

// BuildUnits is the pattern of their names.
const BuildUnits = buildPrefix + "*" + serviceSuffix

// ServerUnit is the unit that runs the instance's game server.
func ServerUnit(name string) string { return serverPrefix + name + serviceSuffix }

// OverlayUnit is the unit that holds the instance's mount.
func OverlayUnit(name string) string { return overlayPrefix + name + serviceSuffix }

// InstanceOf tells whose server or overlay unit this is. It is false for every other unit, the templates
// and names that no instance can have included.
func InstanceOf(unit string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(unit, serverPrefix)
	if !ok {
		rest, ok = strings.CutPrefix(unit, overlayPrefix)
	}
	if !ok {
		return "", false
	}
	name, ok = strings.CutSuffix(rest, serviceSuffix)
	if !ok || !ValidName(name) {
		return "", false
	}
	return name, true
}

// mountOf tells whose mount PID 1 has made this unit of: /var/lib/left4/runtime/NAME/merged, escaped as unit names are.
func mountOf(unit string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(unit, "var-lib-left4-runtime-")
	if !ok {
		return "", false
	}
	rest, ok = strings.CutSuffix(rest, "-merged.mount")
	name = strings.ReplaceAll(rest, `\x2d`, "-")
	return name, ok && ValidName(name) && !strings.Contains(strings.ReplaceAll(rest, `\x2d`, ""), "-")
}

// ours reports whether Watch tells about this unit.
func ours(unit string) bool {
	return strings.HasPrefix(unit, serverPrefix) || strings.HasPrefix(unit, overlayPrefix) || strings.HasPrefix(unit, buildPrefix)
}
