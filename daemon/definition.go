package daemon

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// Changes is what a caller wants of a definition; nil leaves a key as it is.
type Changes struct {
	Port      *uint16 // 0 takes the next free one of PortRange
	Label     *string
	Hostname  *string
	Arguments *[]string
	Config    *[]string
	Overlays  *[]store.OverlayRef
	Restart   *string // always, on-failure, no
	Limits    *units.Limits
	Blueprint *string // "" = none

	NewPassword bool // for RCON
}

// PortRange is where ports come from that nobody asked for.
var PortRange = store.Ports{First: 27015, Last: 27115}

// Bounds of a definition. Source reads a line of a cfg into 512 bytes; overlayfs stacks 500 lower layers, of which the
// game is one.
const (
	maxText      = 255
	maxArguments = 256
	maxArgument  = 1024
	maxCommand   = 24 << 10 // all arguments: those of an instance and its blueprint fit a line of its unit, each byte escaped
	maxLines     = 1000
	maxLine      = 511
	maxOverlays  = 499
)

// Check tells whether the changes are allowed at all, whatever they are made to. Who asks polkit checks first.
func (c Changes) Check() error { return c.apply(&store.Instance{}) }

// CheckBlueprint is Check for the definition of a blueprint, which has fewer keys.
func (c Changes) CheckBlueprint() error {
	for key, given := range map[string]bool{
		"port": c.Port != nil, "label": c.Label != nil, "hostname": c.Hostname != nil, "restart": c.Restart != nil, "blueprint": c.Blueprint != nil,
	} {
		if given {
			return errorf(InvalidArgument, "a blueprint has no %s: it is set for each instance", key)
		}
	}
	return c.Check()
}

// apply validates the changes and puts them into a definition.
func (c Changes) apply(def *store.Instance) error {
	if c.Port != nil {
		if *c.Port != 0 && *c.Port < 1024 {
			return errorf(InvalidArgument, "port %d is not allowed: use 1024 to 65535, or 0 for the next free one", *c.Port)
		}
		def.Port = *c.Port
	}
	if c.Label != nil {
		if err := checkText("label", *c.Label, maxText); err != nil {
			return err
		}
		def.Label = *c.Label
	}
	if c.Hostname != nil {
		if err := checkText("hostname", *c.Hostname, maxText); err != nil {
			return err
		}
		// A cfg has no way to write a quote within a quoted word.
		if strings.Contains(*c.Hostname, `"`) {
			return errorf(InvalidArgument, "hostname %q is not allowed: a server.cfg cannot hold a double quote in it", *c.Hostname)
		}
		def.Hostname = *c.Hostname
	}
	if c.Arguments != nil {
		if err := checkArguments(*c.Arguments); err != nil {
			return err
		}
		def.Arguments.V = *c.Arguments
	}
	if c.Config != nil {
		if len(*c.Config) > maxLines {
			return errorf(InvalidArgument, "config has %d lines, at most %d are allowed", len(*c.Config), maxLines)
		}
		for i, line := range *c.Config {
			if err := checkText(fmt.Sprintf("config line %d", i+1), line, maxLine); err != nil {
				return err
			}
		}
		def.Config.V = *c.Config
	}
	if c.Overlays != nil {
		if err := checkOverlays(*c.Overlays); err != nil {
			return err
		}
		def.Overlays.V = *c.Overlays
	}
	if c.Restart != nil {
		switch *c.Restart {
		case "always", "on-failure", "no":
			def.Restart = *c.Restart
		default:
			return errorf(InvalidArgument, "restart %q is not known: use always, on-failure or no", shorten(*c.Restart))
		}
	}
	if c.Limits != nil {
		if err := checkLimits(*c.Limits); err != nil {
			return err
		}
		def.Limits.V = *c.Limits
	}
	if c.Blueprint != nil {
		if *c.Blueprint != "" {
			if err := CheckName(*c.Blueprint); err != nil {
				return err
			}
		}
		def.Blueprint = *c.Blueprint
	}
	if c.NewPassword {
		def.RconPassword = newPassword()
	}
	return nil
}

// CheckName is the check of every name that enters.
func CheckName(name string) error {
	if !units.ValidName(name) {
		return errorf(InvalidName, "name %q is not allowed: use 1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit", shorten(name))
	}
	return nil
}

func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

func checkText(what, text string, limit int) error {
	switch {
	case len(text) > limit:
		return errorf(InvalidArgument, "%s has %d bytes, at most %d are allowed", what, len(text), limit)
	case !utf8.ValidString(text):
		return errorf(InvalidArgument, "%s %q is not UTF-8", what, shorten(text))
	case strings.IndexFunc(text, unicode.IsControl) >= 0, strings.ContainsAny(text, "\u2028\u2029"):
		return errorf(InvalidArgument, "%s %q holds a control character or line break", what, shorten(text))
	}
	return nil
}

// ownedArguments are those that left4 gives itself or that would undo what it gives.
var ownedArguments = words(`game port hostport norestart strictportbind rcon_password fork netconport`)

// wrapperOptions are srcds_run's own (read in two public copies of the L4D2 file): -binary runs any program, -pidfile
// deletes any file, -debug and -autoupdate bring back its own restart loop, -ignoresigint and -notrap break the stop.
var wrapperOptions = words(`binary pidfile debug debuglog gdb consolelog autoupdate steam_dir steamcmd_script steamerr
	timeout notrap ignoresigint help steambin verify_all`)

func words(s string) map[string]bool {
	set := map[string]bool{}
	for _, word := range strings.Fields(s) {
		set[word] = true
	}
	return set
}

func checkArguments(arguments []string) error {
	if len(arguments) > maxArguments {
		return errorf(InvalidArgument, "there are %d arguments, at most %d are allowed", len(arguments), maxArguments)
	}
	all := 0
	for _, a := range arguments {
		if err := checkText("argument", a, maxArgument); err != nil {
			return err
		}
		if err := units.CheckArgument(a); err != nil {
			return errorf(InvalidArgument, "%v", err)
		}
		if all += len(a) + len(` ""`); all > maxCommand {
			return errorf(InvalidArgument, "the arguments have more than %d bytes together", maxCommand)
		}
		if a == "" {
			return errorf(InvalidArgument, "an empty argument is not allowed: srcds_run would drop it")
		}
		// srcds_run splits its arguments again at blanks and expands globs, whatever the quoting.
		if strings.ContainsFunc(a, unicode.IsSpace) || strings.ContainsAny(a, "*?[") {
			return errorf(InvalidArgument, "argument %q is not allowed: srcds_run would split it at blanks and expand * ? [; put text with blanks into config", shorten(a))
		}
		if a[0] == '@' {
			return errorf(InvalidArgument, "argument %q is not allowed: the engine would read more arguments from a file of that name", shorten(a))
		}
		// The engine takes quotes away, and compares its options without regard to case.
		word := strings.ToLower(strings.ReplaceAll(a, `"`, ""))
		if word == "rcon_password" {
			return errorf(InvalidArgument, "argument %q is not allowed: left4 sets the RCON password where no other user can read it", a)
		}
		if word == "" || word[0] != '-' && word[0] != '+' {
			continue
		}
		switch {
		case ownedArguments[word[1:]]:
			return errorf(InvalidArgument, "argument %q is not allowed: left4 sets it itself", a)
		case wrapperOptions[word[1:]]:
			return errorf(InvalidArgument, "argument %q is not allowed: it is an option of srcds_run, which left4 runs itself", a)
		}
	}
	return nil
}

var alias = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// stagedPrefix begins the names that overlays are staged as by their id.
const stagedPrefix = "server_overlay_"

func checkOverlays(overlays []store.OverlayRef) error {
	if len(overlays) > maxOverlays {
		return errorf(InvalidArgument, "there are %d overlays, at most %d are allowed", len(overlays), maxOverlays)
	}
	seen, names := map[string]bool{}, map[string]bool{"server": true}
	for _, o := range overlays {
		if err := CheckName(o.Overlay); err != nil {
			return errorf(InvalidArgument, "overlay %q: %v", shorten(o.Overlay), err)
		}
		if seen[o.Overlay] {
			return errorf(InvalidArgument, "overlay %s is named twice", o.Overlay)
		}
		seen[o.Overlay] = true
		if o.Alias == "" || o.Alias == "*" {
			continue
		}
		name := strings.ToLower(o.Alias)
		switch {
		case !alias.MatchString(o.Alias):
			return errorf(InvalidArgument, "alias %q of overlay %s is not allowed: use letters, digits, - and _", shorten(o.Alias), o.Overlay)
		case strings.HasPrefix(name, stagedPrefix):
			return errorf(InvalidArgument, "alias %q of overlay %s is not allowed: %s… is what left4 names them itself", o.Alias, o.Overlay, stagedPrefix)
		case names[name]:
			return errorf(InvalidArgument, "overlay %s cannot be staged as %s.cfg, which is taken: give it another alias", o.Overlay, o.Alias)
		}
		names[name] = true
	}
	return nil
}

func checkLimits(l units.Limits) error {
	for _, memory := range []struct {
		key   string
		value *uint64
	}{{"MemoryMax", l.MemoryMax}, {"MemoryHigh", l.MemoryHigh}} {
		if memory.value != nil && *memory.value < 64<<20 {
			return errorf(InvalidArgument, "%s of %d bytes is not allowed: no server starts with less than 67108864 (64 MiB)", memory.key, *memory.value)
		}
	}
	if l.TasksMax != nil && *l.TasksMax < 16 {
		return errorf(InvalidArgument, "TasksMax of %d is not allowed: no server starts with fewer than 16", *l.TasksMax)
	}
	// systemd reads CPUQuota= in whole hundredths of a percent.
	if q := l.CPUQuotaPerSecUSec; q != nil && (*q < 10_000 || *q != math.MaxUint64 && *q > 1024*1_000_000) {
		return errorf(InvalidArgument, "CPUQuotaPerSecUSec of %d is not allowed: use 10000 (1 %%) to 1024000000 (1024 CPUs)", *q)
	}
	if len(l.AllowedCPUs) > 1024 {
		return errorf(InvalidArgument, "AllowedCPUs has %d bytes, at most 1024 are allowed", len(l.AllowedCPUs))
	}
	if l.AllowedCPUs != nil && !strings.ContainsFunc(string(l.AllowedCPUs), func(r rune) bool { return r != 0 }) {
		return errorf(InvalidArgument, "AllowedCPUs names no CPU")
	}
	return nil
}
