package ctl

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"left4.me/left4/client"
	"left4.me/left4/client/clienttest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"left4ctl": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		v := newInvocation(ctx, "0.1.0", os.Stdin, os.Stdout, os.Stderr)
		v.dial = func(ctx context.Context) (*client.Client, error) {
			c, err := client.Dial(ctx)
			// A script that is not about patience does not want to see its end.
			if text := os.Getenv("TEST_PATIENCE"); err == nil && text != "" {
				c.Patience, err = time.ParseDuration(text)
			}
			return c, err
		}
		if text := os.Getenv("TEST_HOST_TIME"); text != "" {
			v.hostTime, _ = time.ParseDuration(text)
		}
		v.root = os.Getenv("TEST_USER") == "" // whoever runs the tests
		v.now = func() time.Time { return time.Unix(1700003600, 0) }
		os.Exit(v.run(os.Args[1:]))
	}, "ssh": func() {
		os.Exit(clienttest.SSH(os.Args[1:]))
	}})
}

// Each script in testdata has a bus and a fake left4d of its own, which the command left4d steers:
//
//	left4d instance NAME PORT [Property=value…]   define an instance
//	left4d state NAME STATE                       the state that it is in
//	left4d pending NAME [WHY]                     it asks for a restart
//	left4d set NAME [Property=value…]             properties that it shall have
//	left4d limits NAME [Limit=NUMBER…]            its limits, in its definition and as a property
//	left4d overlay NAME [PATH=TEXT…]              define an overlay with these files
//	left4d publish NAME [PATH=TEXT…]              give it a new revision, with these files over the others
//	left4d set-overlay NAME [Property=value…]     properties that it shall have
//	left4d files NAME                             print what its current revision holds
//	left4d blueprint NAME [arguments=… | config=… | overlays=… | limit.Limit=NUMBER]…
//	left4d bind INSTANCE BLUEPRINT                bind an instance to a blueprint
//	left4d server-config NAME FILE                what its preview is
//	left4d secret NAME VALUE                      its rcon_password
//	left4d found NAME [LAYER=KIND…]               what FindFile answers
//	left4d changes NAME [CHANGE:BYTES:PATH…]      what ListChanges answers
//	left4d more true|false                        whether lists say that they were cut
//	left4d game-revision ID                       a further revision of the game
//	left4d job TARGET [Property=value…]           a job that has been
//	left4d plan KIND [step=TEXT | progress=FRACTION:TEXT | result=R | cause=TEXT | hold | early | forget]…
//	left4d fail METHOD ERROR MESSAGE              let a method fail
//	left4d await KIND                             wait until a job is held
//	left4d release | stop | start | forget        end held jobs; leave the bus; come back; forget all jobs
//	left4d calls | left4d imported                print the changing calls, or what the last import held
//	left4d remove NAME                            delete an instance
//	left4d permissions [ACTION=ANSWER…]           what GetPermissions answers
//	left4d problem KIND NAME SEVERITY WHAT [REPAIR]
//	left4d version VERSION
//	left4d mark | left4d looked                   wait until somebody watches who did not before the mark
//	left4d host HOST                              there is another host that ssh reaches, with a left4d of its own
//	left4d on HOST VERB …                         steer that one
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("TESTS_UPDATE_GOLDEN") != "",
		Setup: func(env *testscript.Env) error {
			tb := env.T().(testing.TB)
			bus := clienttest.StartBus(tb)
			env.Values["left4d"] = clienttest.StartDaemon(tb, bus)
			env.Values["marks"] = map[*clienttest.Daemon]int{}
			env.Values["testing"], env.Values["hosts"] = tb, map[string]*clienttest.Daemon{}
			if err := os.Mkdir(filepath.Join(env.WorkDir, ".hosts"), 0o755); err != nil {
				return err
			}
			env.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
			env.Setenv("TZ", "UTC")
			bin := filepath.Join(env.WorkDir, ".bin")
			if err := os.Mkdir(bin, 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(bin, "journalctl"), []byte(fakeJournalctl), 0o755); err != nil {
				return err
			}
			completions, err := filepath.Abs("../../../packaging/completions")
			if err != nil {
				return err
			}
			env.Setenv("COMPLETIONS", completions)
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			env.Setenv(clienttest.Hosts, filepath.Join(env.WorkDir, ".hosts"))
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each left4ctl of a test with -race stays for a second
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"left4d": steer, "cmpsorted": compareSorted, "awaitline": awaitLine},
	})
}

// awaitLine waits until a program in the background has written a line to a file: awaitline FILE TEXT.
func awaitLine(ts *testscript.TestScript, neg bool, args []string) {
	f, err := os.Open(ts.MkAbs(args[0])) // a FIFO
	ts.Check(err)
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		if strings.Contains(in.Text(), args[1]) {
			return
		}
	}
	ts.Fatalf("no line has %q", args[1])
}

// fakeJournalctl answers with the file that JOURNAL names, or that of JOURNAL_MORE where it is to follow, once it has
// written its arguments to that of JOURNAL_CALLS.
const fakeJournalctl = `#!/bin/sh
if [ -n "$JOURNAL_CALLS" ]; then
	for a; do printf '<%s>' "$a"; done >>"$JOURNAL_CALLS"
	echo >>"$JOURNAL_CALLS"
fi
case " $* " in
*" --follow "*)
	[ -z "$JOURNAL_MORE" ] || cat "$JOURNAL_MORE"
	exec sleep 1000
	;;
esac
[ -z "$JOURNAL" ] || cat "$JOURNAL"
[ -z "$JOURNAL_ERROR" ] || echo "$JOURNAL_ERROR" >&2
exit ${JOURNAL_EXIT:-0}
`

// compareSorted is cmp without an order of lines: cmpsorted stdout FILE.
func compareSorted(ts *testscript.TestScript, neg bool, args []string) {
	sorted := func(file string) string {
		list := strings.Split(ts.ReadFile(file), "\n")
		slices.Sort(list)
		return strings.TrimSpace(strings.Join(list, "\n"))
	}
	if got, want := sorted(args[0]), sorted(args[1]); got != want {
		ts.Fatalf("got\n%s\nwant\n%s", got, want)
	}
}

func steer(ts *testscript.TestScript, neg bool, args []string) {
	d := ts.Value("left4d").(*clienttest.Daemon)
	if neg || len(args) == 0 {
		ts.Fatalf("usage: left4d VERB …")
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "host":
		tb := ts.Value("testing").(testing.TB)
		bus := clienttest.StartBus(tb)
		ts.Check(os.WriteFile(filepath.Join(ts.Getenv(clienttest.Hosts), args[0]), []byte(bus.Address), 0o644))
		ts.Value("hosts").(map[string]*clienttest.Daemon)[args[0]] = clienttest.StartDaemon(tb, bus)
		return
	case "on":
		d = ts.Value("hosts").(map[string]*clienttest.Daemon)[args[0]]
		verb, args = args[1], args[2:]
	}
	switch verb {
	case "instance":
		port, err := strconv.ParseUint(args[1], 10, 16)
		ts.Check(err)
		d.AddInstance(args[0], uint16(port), properties(args[2:]))
	case "state":
		d.SetProperties(args[0], map[string]any{"State": args[1]})
	case "set":
		d.SetProperties(args[0], properties(args[1:]))
	case "pending":
		d.SetProperties(args[0], map[string]any{"PendingRestart": true, "PendingCause": unescape(strings.Join(args[1:], " "))})
	case "limits":
		limits := map[string]dbus.Variant{}
		for _, a := range args[1:] {
			name, value, _ := strings.Cut(a, "=")
			n, err := strconv.ParseUint(value, 10, 64)
			ts.Check(err)
			limits[name] = dbus.MakeVariant(n)
		}
		d.SetLimits(args[0], limits)
	case "overlay":
		d.AddOverlay(args[0], files(args[1:]))
	case "items":
		// Each as id, state, file, title and cause, with a | between.
		var items []client.OverlayItem
		for _, a := range args[1:] {
			part := append(strings.Split(unescape(a), "|"), "", "", "", "")
			i := client.OverlayItem{ID: part[0], State: part[1], File: part[2], Title: part[3], Cause: part[4]}
			if i.File != "" {
				i.Size, i.Updated = 2048, time.Unix(1700000000, 0)
			}
			items = append(items, i)
		}
		d.AddWorkshopOverlay(args[0], items...)
	case "publish":
		d.PublishOverlay(args[0], files(args[1:]))
	case "set-overlay":
		d.SetOverlay(args[0], properties(args[1:]))
	case "files":
		fmt.Fprint(ts.Stdout(), lines(d.OverlayFiles(args[0])))
	case "blueprint":
		d.AddBlueprint(args[0], blueprint(ts, args[1:]))
	case "bind":
		d.Bind(args[0], args[1])
	case "server-config":
		d.SetServerConfig(args[0], ts.ReadFile(args[1]))
	case "secret":
		d.SetSecret(args[0], args[1])
	case "found":
		var found []client.Found
		for _, a := range args[1:] {
			layer, kind, _ := strings.Cut(a, "=")
			found = append(found, client.Found{Layer: layer, Kind: kind})
		}
		d.SetFound(args[0], found)
	case "maps": // NAME MAP:CAMPAIGN:MODE+MODE:LAYER:FILE… !LAYER:FILE:REASON…
		var m client.Maps
		for _, a := range args[1:] {
			if broken, ok := strings.CutPrefix(unescape(a), "!"); ok {
				parts := strings.SplitN(broken, ":", 3)
				m.Unread = append(m.Unread, client.Unread{Layer: parts[0], File: parts[1], Reason: parts[2]})
				continue
			}
			parts := strings.SplitN(unescape(a), ":", 5)
			m.Maps = append(m.Maps, client.Map{Name: parts[0], Campaign: parts[1], Modes: strings.FieldsFunc(parts[2], func(r rune) bool { return r == '+' }), Layer: parts[3], File: parts[4]})
		}
		d.SetMaps(args[0], m)
	case "changes":
		var changes []client.Change
		for _, a := range args[1:] {
			parts := strings.SplitN(unescape(a), ":", 3)
			n, err := strconv.ParseUint(parts[1], 10, 64)
			ts.Check(err)
			changes = append(changes, client.Change{Path: parts[2], Change: parts[0], Bytes: n})
		}
		d.SetChanges(args[0], changes)
	case "more":
		d.SetMore(args[0] == "true")
	case "game-revision":
		id, err := strconv.ParseUint(args[0], 10, 32)
		ts.Check(err)
		d.AddGameRevision(uint32(id))
	case "job":
		d.AddJob(args[0], properties(args[1:]))
	case "plan":
		var p clienttest.Plan
		for _, a := range args[1:] {
			name, value, _ := strings.Cut(a, "=")
			switch name {
			case "step":
				p.Steps = append(p.Steps, clienttest.Step{Status: unescape(value), Progress: -1})
			case "progress":
				fraction, status, _ := strings.Cut(value, ":")
				n, err := strconv.ParseFloat(fraction, 64)
				ts.Check(err)
				p.Steps = append(p.Steps, clienttest.Step{Status: status, Progress: n})
			case "result":
				p.Result = value
			case "cause":
				p.Cause = unescape(value)
			case "hold":
				p.Hold = true
			case "early":
				p.Early = true
			case "forget":
				p.Forget = true
			default:
				ts.Fatalf("unknown plan %q", a)
			}
		}
		d.SetPlan(args[0], p)
	case "fail":
		d.Fail(args[0], args[1], args[2])
	case "await":
		d.AwaitHeld(args[0])
	case "remove":
		d.RemoveInstance(args[0])
	case "permissions":
		all := map[string]string{}
		for _, a := range args {
			action, answer, _ := strings.Cut(a, "=")
			all[action] = answer
		}
		d.SetPermissions(all)
	case "problem":
		args = append(args, "")
		d.AddProblem(client.Problem{Kind: args[0], Name: args[1], Severity: args[2], What: args[3], Repair: args[4]})
	case "version":
		d.SetVersion(args[0])
	case "mark":
		ts.Value("marks").(map[*clienttest.Daemon]int)[d] = d.AwaitLooks(0)
	case "looked":
		d.AwaitLooks(ts.Value("marks").(map[*clienttest.Daemon]int)[d] + 1)
	case "release":
		d.Release()
	case "stop":
		d.Stop()
	case "start":
		d.Start()
	case "forget":
		d.ForgetJobs()
	case "calls":
		fmt.Fprint(ts.Stdout(), lines(d.Calls()))
	case "imported":
		fmt.Fprint(ts.Stdout(), lines(d.Imported()))
	default:
		ts.Fatalf("unknown verb %q", verb)
	}
}

func lines(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return strings.Join(list, "\n") + "\n"
}

// unescape lets a script write control characters.
func unescape(s string) string {
	if u, err := strconv.Unquote(`"` + s + `"`); err == nil {
		return u
	}
	return s
}

// files reads PATH=TEXT, both unescaped.
func files(args []string) map[string]string {
	all := map[string]string{}
	for _, a := range args {
		name, text, _ := strings.Cut(a, "=")
		all[unescape(name)] = unescape(text)
	}
	return all
}

// blueprint reads the definition of one.
func blueprint(ts *testscript.TestScript, args []string) map[string]dbus.Variant {
	config, limits := map[string]dbus.Variant{}, map[string]dbus.Variant{}
	for _, a := range args {
		key, value, _ := strings.Cut(a, "=")
		limit, isLimit := strings.CutPrefix(key, "limit.")
		switch {
		case isLimit:
			n, err := strconv.ParseUint(value, 10, 64)
			ts.Check(err)
			limits[limit] = dbus.MakeVariant(n)
			config["limits"] = dbus.MakeVariant(limits)
		case key == "overlays":
			config[key] = dbus.MakeVariant(properties([]string{"Overlays=" + value})["Overlays"])
		default:
			config[key] = dbus.MakeVariant(strings.Split(value, ","))
		}
	}
	return config
}

// properties reads Name=value with the types that the bus interface gives them.
func properties(args []string) map[string]any {
	p := map[string]any{}
	for _, a := range args {
		name, value, _ := strings.Cut(a, "=")
		switch name {
		case "Drifted", "PendingRestart", "Cancelable":
			p[name] = value == "true"
		case "Owner", "MainPID", "Restarts", "Requester":
			n, _ := strconv.ParseUint(value, 10, 32)
			p[name] = uint32(n)
		case "StateSince", "Created", "Started", "Finished", "Timeout":
			n, _ := strconv.ParseUint(value, 10, 64)
			p[name] = n
		case "Progress":
			n, _ := strconv.ParseFloat(value, 64)
			p[name] = n
		case "Overlays":
			list := []client.Overlay{}
			for _, o := range strings.Split(value, ",") {
				overlay, alias, _ := strings.Cut(o, ":")
				list = append(list, client.Overlay{Name: overlay, Alias: alias})
			}
			p[name] = list
		default:
			p[name] = unescape(value)
		}
	}
	return p
}
