package ctl

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

// What defines an instance or a blueprint can be written in three ways, which this table and the limits below keep the
// same: as flags of create and configure, as KEY=VALUE of configure, and as a spec file (spec.go).

// key is one key of a definition.
type key struct {
	name  string // on the bus, in KEY=VALUE and in a spec file
	flag  string
	value string // what the flag takes, for help
	usage string
	both  bool // blueprints have it too
	list  bool // each time it is given adds an element; an empty text makes the list empty
	set   func(*client.Config, string) error
}

var keys = []key{
	{
		name: "blueprint", flag: "blueprint", value: "NAME", usage: "the blueprint that it follows, none if NAME is empty",
		set: func(c *client.Config, text string) error { c.Blueprint = &text; return nil },
	},
	{
		name: "port", flag: "port", value: "PORT", usage: "game port, 0 for the next free one",
		set: func(c *client.Config, text string) error {
			n, err := strconv.ParseUint(text, 10, 16)
			if err != nil || strconv.FormatUint(n, 10) != text || n != 0 && n < 1024 {
				return fmt.Errorf("%q is no port: use 1024 to 65535, or 0 for the next free one", text)
			}
			port := uint16(n)
			c.Port = &port
			return nil
		},
	},
	{
		name: "label", flag: "label", value: "TEXT", usage: "name to show to people",
		set: func(c *client.Config, text string) error { c.Label = &text; return nil },
	},
	{
		name: "hostname", flag: "hostname", value: "TEXT", usage: "name in the game's server browser",
		set: func(c *client.Config, text string) error { c.Hostname = &text; return nil },
	},
	{
		name: "arguments", both: true, flag: "arg", value: "ARGUMENT", usage: "one launch argument (repeat it for more)", list: true,
		set: func(c *client.Config, text string) error { c.Arguments = add(c.Arguments, text); return nil },
	},
	{
		name: "config", both: true, flag: "config-line", value: "LINE", usage: "one line of server.cfg (repeat it for more)", list: true,
		set: func(c *client.Config, text string) error { c.Lines = add(c.Lines, text); return nil },
	},
	{
		name: "overlays", both: true, flag: "overlay", value: "NAME[:ALIAS]", list: true,
		usage: "one overlay, the first wins (repeat it for more); its server.cfg is run\n" +
			"if it has an ALIAS, * for one that is made up",
		set: func(c *client.Config, text string) error {
			if text == "" {
				c.Overlays = []client.Overlay{}
				return nil
			}
			name, alias, _ := strings.Cut(text, ":")
			if name == "" {
				return fmt.Errorf("%q names no overlay", text)
			}
			c.Overlays = append(c.Overlays, client.Overlay{Name: name, Alias: alias})
			return nil
		},
	},
	{
		name: "restart", flag: "restart", value: "POLICY", usage: "when systemd restarts it: always, on-failure or no",
		set: func(c *client.Config, text string) error {
			if !slices.Contains(restartPolicies, text) {
				return fmt.Errorf("%q is not known: use always, on-failure or no", text)
			}
			c.Restart = &text
			return nil
		},
	},
}

func add(list []string, text string) []string {
	if text == "" {
		return []string{}
	}
	return append(list, text)
}

// limit is one resource limit, named as in a unit file.
type limit struct {
	name  string
	set   func(*client.Limits, string) error
	clear func(*client.Limits)
	show  func(client.Limits) string // "" if it is not set
}

var limits = []limit{
	number("MemoryMax", parseSize, showSize, func(l *client.Limits) **uint64 { return &l.MemoryMax }),
	number("MemoryHigh", parseSize, showSize, func(l *client.Limits) **uint64 { return &l.MemoryHigh }),
	number("CPUQuota", parseQuota, showQuota, func(l *client.Limits) **uint64 { return &l.CPUQuotaPerSecUSec }),
	{
		name: "AllowedCPUs",
		set: func(l *client.Limits, text string) (err error) {
			l.AllowedCPUs, err = parseCPUs(text)
			return err
		},
		clear: func(l *client.Limits) { l.AllowedCPUs = nil },
		show:  func(l client.Limits) string { return showCPUs(l.AllowedCPUs) },
	},
	number("TasksMax", parseCount, showCount, func(l *client.Limits) **uint64 { return &l.TasksMax }),
}

func number(name string, parse func(string) (uint64, error), show func(uint64) string, field func(*client.Limits) **uint64) limit {
	return limit{
		name: name,
		set: func(l *client.Limits, text string) error {
			n, err := uint64(client.Unlimited), error(nil)
			if text != "infinity" {
				n, err = parse(text)
			}
			*field(l) = &n
			return err
		},
		clear: func(l *client.Limits) { *field(l) = nil },
		show: func(l client.Limits) string {
			switch n := *field(&l); {
			case n == nil:
				return ""
			case *n == client.Unlimited:
				return "infinity"
			default:
				return show(*n)
			}
		},
	}
}

// findLimit returns the limit of that name, or an error that tells which there are.
func findLimit(name string) (limit, error) {
	var all []string
	for _, l := range limits {
		if l.name == name {
			return l, nil
		}
		all = append(all, l.name)
	}
	return limit{}, fmt.Errorf("unknown limit %q: there are %s", name, strings.Join(all, ", "))
}

// settings gathers what the flags and the KEY=VALUE arguments say.
type settings struct {
	config      client.Config
	clearLimits bool
	limits      []func(*client.Limits) error // the changes of limits
	limited     map[string]bool
	given       map[string]bool // the keys that take one value, and have it
	ofBlueprint bool            // there are only the keys that a blueprint has
}

// keys are those that can be set.
func (s *settings) keys() []key {
	return slices.DeleteFunc(slices.Clone(keys), func(k key) bool { return s.ofBlueprint && !k.both })
}

// assign reads one KEY=VALUE argument: a key of the definition, or a limit by its own name.
func (s *settings) assign(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return usagef("%q is no KEY=VALUE", text)
	}
	var all []string
	for _, k := range s.keys() {
		if k.name == name {
			return s.set(k, value)
		}
		all = append(all, k.name)
	}
	if name == "limits" {
		if value != "" {
			return usagef("limits: give each by its own name, as MemoryMax=2G; an empty limits= takes all away")
		}
		s.clearLimits = true
		return nil
	}
	for _, l := range limits {
		all = append(all, l.name)
	}
	if _, err := findLimit(name); err != nil {
		e := &usageError{text: fmt.Sprintf("unknown key %q", name), hint: "the keys are " + strings.Join(all, ", ")}
		if near := nearest(name, all); near != "" {
			e.hint = "did you mean " + near + "?"
		}
		return e
	}
	return s.limit(text)
}

// knows tells a key whose = was forgotten from a name.
func (s *settings) knows(name string) bool {
	_, unknown := findLimit(name)
	return unknown == nil || name == "limits" || slices.ContainsFunc(s.keys(), func(k key) bool { return k.name == name })
}

func (s *settings) set(k key, value string) error {
	if s.given == nil {
		s.given = map[string]bool{}
	}
	if s.given[k.name] && !k.list {
		return usagef("%s is given twice", k.name)
	}
	s.given[k.name] = true
	if err := k.set(&s.config, value); err != nil {
		return usagef("%s: %v", k.name, err)
	}
	return nil
}

// limit reads LIMIT=VALUE; without a value the limit goes back to its default.
func (s *settings) limit(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return usagef("%q is no LIMIT=VALUE, as MemoryMax=2G", text)
	}
	l, err := findLimit(name)
	if err != nil {
		return usagef("%v", err)
	}
	if s.limited[name] {
		return usagef("%s is given twice", name)
	}
	if s.limited == nil {
		s.limited = map[string]bool{}
	}
	s.limited[name] = true
	if value == "" {
		s.limits = append(s.limits, func(all *client.Limits) error { l.clear(all); return nil })
		return nil
	}
	if err := l.set(&client.Limits{}, value); err != nil {
		return usagef("%s: %v", name, err)
	}
	s.limits = append(s.limits, func(all *client.Limits) error { return l.set(all, value) })
	return nil
}

// changesLimits tells that limits are given, so that those which are not have to be known.
func (s *settings) changesLimits() bool { return len(s.limits) > 0 }

// result is the whole config, with the limits changed from what they were.
func (s *settings) result(before client.Limits) (client.Config, error) {
	c := s.config
	if s.clearLimits {
		before = client.Limits{}
	}
	if s.clearLimits || s.changesLimits() {
		for _, change := range s.limits {
			if err := change(&before); err != nil {
				return c, err
			}
		}
		c.Limits = &before
	}
	return c, nil
}

// settingFlag makes a flag of a function, for pflag.
type settingFlag struct {
	value string
	set   func(string) error
}

func (f settingFlag) String() string        { return "" }
func (f settingFlag) Type() string          { return f.value }
func (f settingFlag) Set(text string) error { return f.set(text) }

func configureFlags(v *invocation, fs *pflag.FlagSet) {
	settingFlags(v, fs)
	fs.BoolVar(&v.newPassword, "new-rcon-password", false, "make a new rcon_password")
}

func blueprintFlags(v *invocation, fs *pflag.FlagSet) {
	v.settings.ofBlueprint = true
	settingFlags(v, fs)
}

func settingFlags(v *invocation, fs *pflag.FlagSet) {
	for _, k := range v.settings.keys() {
		fs.Var(settingFlag{k.value, func(text string) error { return v.settings.set(k, text) }}, k.flag, k.usage)
		if k.list {
			fs.SetAnnotation(k.flag, repeatable, []string{"true"})
		}
	}
	var all []string
	for _, l := range limits {
		all = append(all, l.name)
	}
	fs.Var(settingFlag{"LIMIT=VALUE", v.settings.limit}, "limit",
		"one resource limit (repeat it for more), as MemoryMax=2G, CPUQuota=150%,\nAllowedCPUs=0-3; there are "+strings.Join(all, ", "))
	fs.SetAnnotation("limit", repeatable, []string{"true"})
}

// timeout is a span of time on the command line: 90s, 5m, or bare seconds.
type timeout time.Duration

func (t *timeout) String() string { return "" }
func (t *timeout) Type() string   { return "DURATION" }

func (t *timeout) Set(text string) error {
	d, err := time.ParseDuration(text)
	if n, bad := strconv.ParseUint(text, 10, 32); bad == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is no duration: use 90s, 5m or 1h", text)
	}
	*t = timeout(d)
	return nil
}

const sizeUnits = "KMGTPE"

// parseSize reads bytes as systemd does: a number, with a fraction or not, and K, M, G, T, P or E of base 1024.
func parseSize(text string) (uint64, error) {
	bad := fmt.Errorf("%q is no size: use bytes, 512M, 1.5G or infinity", text)
	digits, factor := text, 1.0
	if n := len(text); n > 0 {
		if i := strings.IndexByte(sizeUnits, text[n-1]); i >= 0 {
			digits, factor = text[:n-1], math.Pow(1024, float64(i+1))
		}
	}
	if whole, err := strconv.ParseUint(digits, 10, 64); err == nil {
		high, low := bits.Mul64(whole, uint64(factor))
		if high != 0 || low == client.Unlimited {
			return 0, bad
		}
		return low, nil
	}
	fraction, err := parseFraction(digits)
	if err != nil || fraction*factor >= math.MaxUint64 {
		return 0, bad
	}
	return uint64(fraction * factor), nil
}

// parseFraction reads digits with one point among them; strconv would take signs, exponents and words too.
func parseFraction(text string) (float64, error) {
	if strings.Trim(text, "0123456789.") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(text, 64)
}

func showSize(n uint64) string {
	unit := ""
	for i := 0; i < len(sizeUnits) && n > 0 && n%1024 == 0; i++ {
		n, unit = n/1024, sizeUnits[i:i+1]
	}
	return strconv.FormatUint(n, 10) + unit
}

// parseQuota reads a percentage of one CPU and gives microseconds of CPU time in a second.
func parseQuota(text string) (uint64, error) {
	digits, ok := strings.CutSuffix(text, "%")
	percent, err := parseFraction(digits)
	if !ok || err != nil || percent > 1e9 {
		return 0, fmt.Errorf("%q is no share of CPUs: use 150%% for one and a half, or infinity", text)
	}
	return uint64(math.Round(percent * 1e4)), nil
}

func showQuota(n uint64) string {
	return strconv.FormatFloat(float64(n)/1e4, 'f', -1, 64) + "%"
}

func parseCount(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == client.Unlimited {
		return 0, fmt.Errorf("%q is no number: use digits, or infinity", text)
	}
	return n, nil
}

func showCount(n uint64) string { return strconv.FormatUint(n, 10) }

// maxCPU is the highest number of a CPU that a kernel can be built for.
const maxCPU = 8191

// parseCPUs reads "0-3,8" and gives a bit for each CPU, the first in the lowest bit of the first byte.
func parseCPUs(text string) ([]byte, error) {
	var mask []byte
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		from, to, span := strings.Cut(part, "-")
		if !span {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if errors.Join(err, err2) != nil || first > last || last > maxCPU {
			return nil, fmt.Errorf("%q is no list of CPUs: use 0-3,8", text)
		}
		for n := first; n <= last; n++ {
			for len(mask) <= int(n/8) {
				mask = append(mask, 0)
			}
			mask[n/8] |= 1 << (n % 8)
		}
	}
	if mask == nil {
		return nil, fmt.Errorf("%q is no list of CPUs: use 0-3,8", text)
	}
	return mask, nil
}

func showCPUs(mask []byte) string {
	var parts []string
	in := func(n int) bool { return n/8 < len(mask) && mask[n/8]&(1<<(n%8)) != 0 }
	for n := 0; n < len(mask)*8; n++ {
		if !in(n) {
			continue
		}
		last := n
		for in(last + 1) {
			last++
		}
		if part := strconv.Itoa(n); last == n {
			parts = append(parts, part)
		} else {
			parts = append(parts, part+"-"+strconv.Itoa(last))
		}
		n = last
	}
	return strings.Join(parts, ",")
}

// shownLimits are the limits that are set, as in a unit file.
func shownLimits(l client.Limits) (names, values []string) {
	for _, one := range limits {
		if text := one.show(l); text != "" {
			names, values = append(names, one.name), append(values, text)
		}
	}
	return slices.Clip(names), slices.Clip(values)
}
