package abuse

import (
	"context"
	"encoding/xml"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"left4.me/left4/dbus/names"
)

// scratch is what names of things begin with that an operator's fuzzer may do anything to.
const scratch = "scratch"

// object is what introspection tells of one.
type object struct {
	path    string
	methods []method
}

type method struct {
	iface, name string
	args        []string // types
}

// walk finds every object and every method.
func (a *attack) walk(b *Bus, path string) (all []object, err error) {
	r, err := b.Call(left4d(dbus.ObjectPath(path), names.Introspectable, "Introspect"))
	if err != nil {
		return nil, err
	}
	text, _ := r.Text()
	var node struct {
		Interfaces []struct {
			Name    string `xml:"name,attr"`
			Methods []struct {
				Name string `xml:"name,attr"`
				Args []struct {
					Type      string `xml:"type,attr"`
					Direction string `xml:"direction,attr"`
				} `xml:"arg"`
			} `xml:"method"`
		} `xml:"interface"`
		Nodes []struct {
			Name string `xml:"name,attr"`
		} `xml:"node"`
	}
	if err := xml.Unmarshal([]byte(text), &node); err != nil {
		return nil, fmt.Errorf("introspection of %s: %s %w", path, r.Error, err)
	}
	o := object{path: path}
	for _, i := range node.Interfaces {
		for _, m := range i.Methods {
			found := method{iface: i.Name, name: m.Name}
			for _, arg := range m.Args {
				if arg.Direction != "out" {
					found.args = append(found.args, arg.Type)
				}
			}
			o.methods = append(o.methods, found)
		}
	}
	all = append(all, o)
	for i, n := range node.Nodes {
		// One object of a kind is as another; jobs come and go.
		if deep := strings.Count(path, "/") > 2; deep && i > 1 && !strings.HasPrefix(n.Name, scratch) {
			continue
		}
		below, err := a.walk(b, strings.TrimSuffix(path, "/")+"/"+n.Name)
		if err != nil {
			continue // it has gone
		}
		all = append(all, below...)
	}
	return all, nil
}

// mine tells whether the fuzzer may call an object's methods with arguments that they take.
func (a *attack) mine(path string) bool {
	for _, kind := range []string{"instance", "blueprint", "overlay"} {
		if label, ok := strings.CutPrefix(path, string(names.Root)+"/"+kind+"/"); ok {
			return !a.Operator || strings.HasPrefix(label, scratch)
		}
	}
	return true
}

// types are complete types, to stand where another is wanted.
var types = []string{"y", "b", "n", "q", "i", "u", "x", "t", "d", "s", "o", "g", "h", "v", "as", "ay", "av", "aas", "a{sv}", "a{ss}", "a{yv}", "(s)", "(sv)", "a(ss)", "a(sst)", "((((s))))", "aaaaaaaas", "a{sa{sv}}"}

// texts are strings that somebody might take for something else.
var texts = []string{
	"", "a", scratch, scratch + "-1", scratch + "_", strings.Repeat("a", 64), strings.Repeat("a", 65), strings.Repeat("x", 5000), strings.Repeat("é", 200_000),
	"\n", "\r\n[Service]\nExecStart=/bin/sh", "\x01\x1b[31mred\x07", "\t", " ", "../..", "/", "/etc/passwd", "../../left4.db", ".", "..", "./a", "a//b", "-rf", "--help",
	"%s%n%x", "%i", "$(id)", "`id`", "${HOME}", ";reboot", "'", `"`, `\`, `\x00`, "' OR 1=1 --", "*", "?", "[a-z]", "{a,b}",
	"A", "Scratch", "SCRATCH", "ѕcratch", "ｓｃｒａｔｃｈ", "scrаtch", "İ", "ß", "a\u0301", "a\u200bb", "a\u202eb", "\ufeffa", "\U0010ffff", "\u2028",
	"me.left4", "me.left4.Manager", "me.left4.Instance", "State", "Version", "rcon_password", "files", "script", "always", "no", "running", "failed", "0", "-1", "4294967296", "1e999", "true", "null",
}

// keys are those that a{sv} may have somewhere, and some that it may not have.
var keys = []string{
	"port", "label", "hostname", "arguments", "config", "overlays", "restart", "limits", "blueprint", "keep", "timeout", "size", "merge", "remove", "base", "into",
	"revision", "files_from", "new_rcon_password", "name", "state", "type", "target", "kind", "requester", "limit", "when", "deadline", "announce",
	"MemoryMax", "TasksMax", "AllowedCPUs", "CPUQuotaPerSecUSec", "", "\n", "Port", "pоrt", "__proto__",
}

// chance draws values. What it draws is valid for the bus, which ends the connection of who sends anything else.
type chance struct {
	*rand.Rand
	texts []string
	depth int
}

func (c *chance) text() string {
	if c.IntN(8) == 0 {
		b := make([]rune, c.IntN(40))
		for i := range b {
			if b[i] = rune(1 + c.IntN(0x24f)); c.IntN(20) == 0 {
				b[i] = rune(0x10000 + c.IntN(0xffff))
			}
		}
		return string(b)
	}
	return c.texts[c.IntN(len(c.texts))]
}

// value appends one of a complete type and returns what is left of the signature.
func (c *chance) value(e *encoder, sig string) (rest string) {
	edge := [...]uint64{0, 1, 2, 77, 27015, 1 << 15, 1<<16 - 1, 1 << 31, 1<<32 - 1, 1 << 63, 1<<64 - 1}[c.IntN(11)]
	switch sig[0] {
	case 'y':
		e.b = append(e.b, byte(edge))
	case 'b':
		e.uint32(uint32(c.IntN(2)))
	case 'n', 'q':
		e.align(2)
		e.b = append(e.b, byte(edge), byte(edge>>8))
	case 'i', 'u':
		e.uint32(uint32(edge))
	case 'h':
		e.uint32([...]uint32{0, 0, 0, 1, 5, 1 << 31}[c.IntN(6)])
	case 'x', 't', 'd':
		e.uint64(edge)
	case 's':
		e.string(c.text())
	case 'o':
		e.string([...]string{"/", "/me/left4", "/me/left4/instance/a", "/a/b_c/_", "/" + strings.Repeat("a", 3000)}[c.IntN(5)])
	case 'g':
		e.signature([...]string{"", "s", "a{sv}", strings.Repeat("v", 255), strings.Repeat("a", 32) + "s"}[c.IntN(5)])
	case 'v':
		inner := types[c.IntN(len(types))]
		if c.depth > 40 {
			inner = "y"
		} else if c.IntN(40) == 0 {
			c.deep(e, 60-c.depth)
			return sig[1:]
		}
		e.signature(inner)
		c.depth += 2
		c.value(e, inner)
		c.depth -= 2
	case 'a':
		element := complete(sig[1:])
		n := c.IntN(4)
		if c.depth > 8 {
			n = 0
		}
		alignment := 1
		switch element[0] {
		case 'n', 'q':
			alignment = 2
		case 'b', 'i', 'u', 'h', 's', 'o', 'a':
			alignment = 4
		case 'x', 't', 'd', '(', '{':
			alignment = 8
		}
		c.depth++
		e.array(alignment, func() {
			for range n {
				c.value(e, element)
			}
		})
		c.depth--
		return sig[1+len(element):]
	case '(', '{':
		whole := complete(sig)
		e.align(8)
		inner := whole[1 : len(whole)-1]
		c.depth++
		if sig[0] == '{' && inner[0] == 's' && c.IntN(6) > 0 {
			e.string(keys[c.IntN(len(keys))])
			inner = inner[1:]
		}
		for inner != "" {
			inner = c.value(e, inner)
		}
		c.depth--
		return sig[len(whole):]
	}
	return sig[1:]
}

// deep is a variant in a variant, so many times.
func (c *chance) deep(e *encoder, depth int) {
	for range max(depth-1, 0) {
		e.signature("v")
	}
	e.signature("y")
	e.b = append(e.b, 7)
}

// complete is the first complete type of a signature.
func complete(sig string) string {
	switch sig[0] {
	case 'a':
		return sig[:1+len(complete(sig[1:]))]
	case '(', '{':
		depth := 0
		for i, r := range sig {
			switch r {
			case '(', '{':
				depth++
			case ')', '}':
				if depth--; depth == 0 {
					return sig[:i+1]
				}
			}
		}
	}
	return sig[:1]
}

// try is one call of the fuzzer.
type try struct {
	Message
	what string
	kind string // of the descriptor that goes along, "" = none
}

// tries are what is made of one method: each argument of every other type, each with values that nobody would send, too few
// and too many of them, flags that nobody knows, descriptors that nobody asked for.
func (a *attack) tries(c *chance, o object, m method, emit func(try)) {
	base := func(what, sig string) try {
		t := try{Message{To: names.Service, Path: o.path, Interface: m.iface, Member: m.name, Signature: sig}, what, ""}
		e := &encoder{}
		for rest := sig; rest != ""; {
			rest = c.value(e, rest)
		}
		t.Body = e.b
		return t
	}
	sig := strings.Join(m.args, "")
	for i := range m.args {
		for _, other := range types {
			if other == m.args[i] {
				continue
			}
			args := append([]string{}, m.args...)
			args[i] = other
			emit(base(fmt.Sprintf("argument %d as %s", i, other), strings.Join(args, "")))
		}
	}
	if len(m.args) > 0 {
		emit(base("no argument", ""))
		emit(base("one argument too few", strings.Join(m.args[1:], "")))
	}
	emit(base("one argument too many", sig+"s"))
	emit(base("two hundred arguments", sig+strings.Repeat("y", 200)))
	good := a.mine(o.path) && !(a.Operator && (m.name == "ImportGame" || m.name == "SetGameRevision"))
	if !good {
		return
	}
	for range 4 + 25*len(m.args) {
		emit(base("hostile values", sig))
	}
	for _, flags := range []dbus.Flags{2, 4, 6, 0xf8, 0xfe} {
		t := base(fmt.Sprintf("flags %#x", byte(flags)), sig)
		t.Flags = flags
		emit(t)
	}
	for kind := range descriptorKinds {
		// A pipe and a file are what an import takes; those have an attack of their own.
		if kind == "reading end" || kind == "file" {
			continue
		}
		t := base("a descriptor: "+kind, sig)
		t.kind, t.FDs = kind, 1
		emit(t)
	}
	for _, iface := range []string{"", "x.y", "org.freedesktop.DBus.Peer", "me.left4." + strings.Repeat("a", 240)} {
		t := base("interface "+iface, sig)
		t.Interface = iface
		emit(t)
	}
	for _, path := range []string{"/", strings.TrimSuffix(o.path, "/") + "/x", "/" + strings.Repeat("a", 10_000), "/me/left4/instance/_", "/me/left4/instance/_2e_2e_2fetc", "/me/left4/job/0", "/me/left4/job/99999999999999999999", "/me/left4/instance/A"} {
		t := base("path "+path, sig)
		t.Path = path
		emit(t)
	}
}

// judge looks whether an answer is one that left4d may give.
func (a *attack) judge(t try, r *Reply) {
	if r.Kind == dbus.TypeMethodReply {
		if !strings.HasPrefix(t.what, "argument ") && !strings.HasPrefix(t.what, "one argument") && !strings.HasPrefix(t.what, "no argument") && !strings.HasPrefix(t.what, "two hundred") {
			return
		}
		a.fault("%s.%s of %s with %s (%s) was accepted", t.Interface, t.Member, t.Path, t.what, t.Signature)
		return
	}
	text, _ := r.Text()
	known := strings.HasPrefix(r.Error, names.Error) || strings.HasPrefix(r.Error, "org.freedesktop.DBus.Error.")
	if !known || r.Error == "org.freedesktop.DBus.Error.NoReply" || r.Error == "org.freedesktop.DBus.Error.Disconnected" || text == "" || strings.Contains(text, "internal error") {
		a.fault("%s.%s of %s with %s (%s): %s: %s", t.Interface, t.Member, t.Path, t.what, t.Signature, r.Error, text)
	}
}

// fuzz walks the introspection and calls every method of every object as nobody should. Every call has one answer, by name.
func (a *attack) fuzz(ctx context.Context) error {
	b, done, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	objects, err := a.walk(b, "/")
	if err != nil {
		return err
	}
	c := &chance{Rand: rand.New(rand.NewPCG(a.Seed, 1)), texts: texts}
	if !a.Operator {
		c.texts = append(append([]string{}, texts...), a.Instance, a.Instance, a.Instance, a.Overlay)
	}
	var all []try
	for _, o := range objects {
		for _, m := range o.methods {
			a.tries(c, o, m, func(t try) { all = append(all, t) })
		}
	}
	c.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if a.Count != 0 {
		all = all[:min(a.Count, len(all))]
	}
	a.ready()
	open := map[uint32]try{}
	for len(all) > 0 || len(open) > 0 {
		for ; len(all) > 0 && len(open) < 48 && ctx.Err() == nil; all = all[1:] {
			t := all[0]
			var fds []int
			if t.kind != "" {
				f, release, err := descriptorKinds[t.kind]()
				if err != nil {
					continue // not here
				}
				defer release()
				fds = append(fds, f)
			}
			serial, err := b.Send(t.Raw(), fds...)
			if err != nil {
				return fmt.Errorf("%s.%s with %s: %w", t.Interface, t.Member, t.what, err)
			}
			open[serial] = t
			a.sent(1)
		}
		b.SetReadDeadline(time.Now().Add(answerDeadline))
		r, err := b.Read()
		if err != nil {
			a.mu.Lock()
			a.tally.Lost++
			a.mu.Unlock()
			for _, t := range open {
				a.fault("%s.%s of %s with %s (%s) has no answer: %v", t.Interface, t.Member, t.Path, t.what, t.Signature, err)
			}
			return nil
		}
		if t, ok := open[r.To]; ok && r.To != 0 {
			delete(open, r.To)
			a.answered(r)
			a.judge(t, r)
		}
	}
	return nil
}

// descriptorKinds open descriptors that are no tar stream, and two that may be one.
var descriptorKinds = map[string]func() (fd int, release func(), err error){
	"directory":   opened("/", unix.O_RDONLY|unix.O_DIRECTORY),
	"zero":        opened("/dev/zero", unix.O_RDONLY),
	"null":        opened("/dev/null", unix.O_RDONLY),
	"full":        opened("/dev/full", unix.O_RDWR),
	"terminal":    opened("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY),
	"memory":      opened("/proc/self/mem", unix.O_RDONLY),
	"environment": opened("/proc/self/environ", unix.O_RDONLY),
	"namespace":   opened("/proc/self/ns/mnt", unix.O_RDONLY),
	"path":        opened("/etc/passwd", unix.O_PATH),
	"writable":    opened("/dev/null", unix.O_WRONLY),
	"file":        opened("/etc/passwd", unix.O_RDONLY),
	"epoll":       made(func() (int, error) { return unix.EpollCreate1(unix.EPOLL_CLOEXEC) }),
	"event":       made(func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) }),
	"timer":       made(func() (int, error) { return unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC) }),
	"inotify":     made(func() (int, error) { return unix.InotifyInit1(unix.IN_CLOEXEC) }),
	"process":     made(func() (int, error) { return unix.PidfdOpen(os.Getpid(), 0) }),
	"socket":      made(func() (int, error) { return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) }),
	"sealed": made(func() (int, error) {
		fd, err := unix.MemfdCreate("sealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
		}
		return fd, err
	}),
	"writing end": func() (int, func(), error) { r, w, close, err := pipe(); _ = r; return w, close, err },
	"reading end": func() (int, func(), error) { r, w, close, err := pipe(); _ = w; return r, close, err },
}

func opened(name string, flags int) func() (int, func(), error) {
	return made(func() (int, error) { return unix.Open(name, flags|unix.O_CLOEXEC, 0) })
}

func made(open func() (int, error)) func() (int, func(), error) {
	return func() (int, func(), error) {
		fd, err := open()
		if err != nil {
			return -1, nil, err
		}
		return fd, func() { unix.Close(fd) }, nil
	}
}

func pipe() (r, w int, release func(), err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, nil, err
	}
	return p[0], p[1], func() { unix.Close(p[0]); unix.Close(p[1]) }, nil
}

// descriptors hands every kind of descriptor to every method that takes one, and as many as the bus lets through to those
// that take none.
func (a *attack) descriptors(ctx context.Context) error {
	b, done, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	a.ready()
	none := map[string]dbus.Variant{}
	target := a.Overlay
	if a.Operator {
		target = scratch
	}
	for n := 0; n < max(a.Count, 1) && ctx.Err() == nil; {
		for kind, open := range descriptorKinds {
			for _, m := range []Message{
				manager("ImportOverlay", target, dbus.UnixFDIndex(0), none),
				left4d(names.OverlayPath(target), names.Overlay, "Import", dbus.UnixFDIndex(0), none),
				manager("ImportGame", dbus.UnixFDIndex(0), none),
				manager("ImportOverlay", target, dbus.UnixFDIndex(1), none),
				manager("GetInstance", a.Instance),
			} {
				if a.Operator && m.Member == "ImportGame" && (kind == "file" || kind == "reading end") {
					continue
				}
				fd, release, err := open()
				if err != nil {
					continue // not here
				}
				many := []int{fd}
				if n%7 == 6 {
					for len(many) < 16 {
						many = append(many, fd)
					}
				}
				r, err := b.Call(m, many...)
				release()
				if err != nil {
					return fmt.Errorf("%s with %s: %w", m.Member, kind, err)
				}
				n++
				a.sent(1)
				a.answered(r)
				a.judge(try{m, "a descriptor: " + kind, kind}, r)
				// What reads as a file is taken for one: what it holds is found to be no archive by who unpacks it.
				streams := slices.Contains([]string{"file", "reading end", "environment", "sealed", "memory", "namespace"}, kind)
				if r.Error == "" && m.Member != "GetInstance" {
					a.mu.Lock()
					a.tally.Jobs++
					a.mu.Unlock()
					if !streams || len(many) != 1 {
						a.fault("%s took %d descriptors: %s", m.Member, len(many), kind)
					}
				}
			}
		}
	}
	return nil
}
