package ctl

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/client/clienttest"
)

// scripted are the command lines of left4ctl in testdata, by verb.
func scripted(t *testing.T) map[string][]string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	lines := map[string][]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(strings.TrimPrefix(line, "! "), "exec ") {
				continue
			}
			for _, call := range regexp.MustCompile(`left4ctl ([^|;<>]*)`).FindAllStringSubmatch(line, -1) {
				words, _ := findVerb(strings.Fields(call[1]))
				if c := find(strings.Join(words, " ")); c != nil {
					lines[c.name] = append(lines[c.name], call[1])
				}
			}
		}
	}
	return lines
}

func TestEveryVerbHasAScript(t *testing.T) {
	lines := scripted(t)
	for _, c := range verbs() {
		if len(lines[c.name]) == 0 {
			t.Errorf("no script runs %s", c.name)
		}
		if new(invocation).flagSet(&c).Lookup("json") == nil {
			continue
		}
		if !slices.ContainsFunc(lines[c.name], func(line string) bool { return slices.Contains(strings.Fields(line), "--json") }) {
			t.Errorf("no script runs %s --json", c.name)
		}
	}
}

// printed are the things that --json prints, by verb.
var printed = map[string][]any{
	"list":              {instanceJSON{}, liveJobJSON{}, overlayJSON{}},
	"status":            {hostJSON{}},
	"which":             {foundJSON{}},
	"diff":              {changeJSON{}},
	"conflicts":         {conflictJSON{}},
	"maps":              {mapJSON{}},
	"audit":             {callJSON{}},
	"permissions":       {permissionJSON{}},
	"doctor":            {problemJSON{}},
	"monitor":           {happening{}},
	"blueprint list":    {blueprintJSON{}, overlayJSON{}},
	"blueprint show":    {blueprintShowJSON{}},
	"overlay list":      {overlayRow{}},
	"overlay show":      {overlayShowJSON{}},
	"overlay revisions": {revisionOf{}},
	"overlay items":     {itemJSON{}},
	"overlay ls":        {fileJSON{}},
	"game revisions":    nil,
	"game check":        {gameJSON{}},
	"job list":          {jobJSON{}},
	"job show":          {jobShowJSON{}},
}

func TestEveryFieldOfJSONIsDocumented(t *testing.T) {
	manual, err := os.ReadFile("../../../packaging/man/left4ctl.1")
	if err != nil {
		t.Fatal(err)
	}
	_, promise, _ := strings.Cut(string(manual), "\n.Sh JSON\n")
	promise, _, _ = strings.Cut(promise, "\n.Sh ")
	for _, c := range verbs() {
		things, known := printed[c.name]
		if new(invocation).flagSet(&c).Lookup("json") == nil {
			continue
		}
		if !known {
			t.Errorf("this test does not know what %s --json prints", c.name)
		}
		if !strings.Contains(c.help, "--json prints") {
			t.Errorf("the help of %s does not tell what --json prints", c.name)
		}
		for _, thing := range things {
			for _, field := range reflect.VisibleFields(reflect.TypeOf(thing)) {
				name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
				word := regexp.MustCompile(`\b` + name + `\b`)
				if name == "" {
					continue
				}
				// Those of what it embeds are told where that is.
				if !word.MatchString(c.help) && len(field.Index) == 1 {
					t.Errorf("the help of %s does not tell of %s", c.name, name)
				}
				if !word.MatchString(promise) {
					t.Errorf("left4ctl(1) does not tell of %s of %s", name, c.name)
				}
			}
		}
	}
}

// samples are arguments of verbs, where the synopsis does not give them.
var samples = map[string][]string{
	"create":              {"new"},
	"clone":               {"a", "new"},
	"configure":           {"a", "label=x"},
	"apply":               {"-f", "host.yaml"},
	"conflicts":           {"bp"},
	"blueprint create":    {"new"},
	"blueprint configure": {"bp", "config=x"},
	"blueprint show":      {"bp"},
	"blueprint delete":    {"bp"},
	"overlay create":      {"new"},
	"overlay configure":   {"sm", "--keep", "2"},
	"overlay import":      {"sm", "file.tar"},
	"overlay refresh":     {"maps"},
	"overlay items":       {"maps"},
	"overlay rollback":    {"sm", "1"},
	"overlay get":         {"sm", "f"},
	"overlay put":         {"sm", "g", "host.yaml"},
	"overlay edit":        {"sm", "f"},
	"overlay mkdir":       {"sm", "d"},
	"overlay rm":          {"sm", "f"},
	"game import":         {"file.tar"},
	"game rollback":       {"7"},
}

func sample(c command) []string {
	if args, ok := samples[c.name]; ok {
		return args
	}
	var args []string
	for _, token := range strings.Fields(c.args) {
		switch strings.Trim(token, "…") {
		case "NAME":
			args = append(args, map[bool]string{true: "sm", false: "a"}[strings.HasPrefix(c.name, "overlay ")])
		case "ID":
			args = append(args, "1")
		case "LABEL", "PATH":
			args = append(args, "f")
		}
	}
	return args
}

// Without a standard input, with an output that takes nothing, without left4d and without a bus: each verb comes to its
// end, with an exit status that is one of ours, and without the traces of a program that has lost its way.
func TestEveryVerbComesToItsEnd(t *testing.T) {
	t.Parallel()
	for _, c := range verbs() {
		if c.name == "monitor" {
			continue // it ends with Ctrl-C
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bus := clienttest.StartBus(t)
			d := clienttest.StartDaemon(t, bus)
			d.SetVersion("0.1.0") // ours, or it would be a problem
			d.AddInstance("a", 27015, nil)
			d.SetLimits("a", map[string]dbus.Variant{})
			d.AddOverlay("sm", map[string]string{"f": "text"})
			d.AddWorkshopOverlay("maps")
			d.AddBlueprint("bp", map[string]dbus.Variant{})
			d.AddJob("a", nil)
			dir := t.TempDir()
			for name, text := range map[string]string{"host.yaml": "instances: {}\n", "file.tar": ""} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(filepath.Join(dir, ".bin"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, ".bin/journalctl"), []byte(fakeJournalctl), 0o755); err != nil {
				t.Fatal(err)
			}
			run := func(address, redirect string) (code int, stdout, stderr string) {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				words := append(strings.Fields(c.name), sample(c)...)
				cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", `exec left4ctl "$@" ` + redirect, "sh"}, words...)...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(),
					"DBUS_SYSTEM_BUS_ADDRESS="+address, "PATH="+filepath.Join(dir, ".bin")+":"+os.Getenv("PATH"), "EDITOR=true", "GORACE=atexit_sleep_ms=0")
				var out, errs strings.Builder
				cmd.Stdout, cmd.Stderr = &out, &errs
				err := cmd.Run()
				var exit *exec.ExitError
				if err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 0) {
					t.Fatalf("%v %s: %v\n%s%s", words, redirect, err, &out, &errs)
				}
				if code = cmd.ProcessState.ExitCode(); code > exitUnknown {
					t.Errorf("%v %s: exit status %d", words, redirect, code)
				}
				for _, trace := range []string{"panic", "goroutine ", "DATA RACE", "%!"} {
					if strings.Contains(out.String()+errs.String(), trace) {
						t.Errorf("%v %s:\n%s%s", words, redirect, &out, &errs)
					}
				}
				return code, out.String(), errs.String()
			}
			code, out, errs := run(bus.Address, "<&-")
			if want := map[string]int{"status": exitStopped, "which": exitFailure}[c.name]; code != want && (c.name != "status" || code != exitOK) {
				t.Errorf("exit status %d\n%s%s", code, out, errs)
			}
			code, _, errs = run(bus.Address, ">/dev/full")
			if out != "" && c.name != "logs" && (code != exitFailure || !strings.Contains(errs, "cannot write the output")) {
				t.Errorf("with a full output: exit status %d\n%s", code, errs)
			}
			d.Stop()
			for _, address := range []string{bus.Address, "unix:path=" + dir + "/none"} {
				code, _, errs = run(address, "<&- >/dev/null")
				offline := slices.Contains([]string{"logs", "audit", "help", "version"}, c.name)
				if offline != (code == exitOK) || code != exitOK && !strings.Contains(errs, "left4ctl: hint: ") {
					t.Errorf("without left4d: exit status %d\n%s", code, errs)
				}
			}
		})
	}
}

// jobOfVerb is the kind of job that a verb waits for.
var jobOfVerb = map[string]string{
	"initialize": "initialize", "start": "start", "stop": "stop", "restart": "restart", "kill": "kill", "reset": "reset", "delete": "delete",
	"overlay import": "import-overlay", "overlay build": "build-overlay", "overlay refresh": "build-overlay", "overlay delete": "delete-overlay", "overlay put": "import-overlay",
	"overlay mkdir": "import-overlay", "overlay rm": "import-overlay", "game import": "import-game",
	"game install": "install-game", "game update": "install-game", "game validate": "install-game", "game check": "install-game",
}

// A left4d that goes while a verb waits for it, and does not come back: the verb says so and fails.
func TestEveryVerbSeesThatLeft4dHasGone(t *testing.T) {
	t.Parallel()
	for _, c := range verbs() {
		if c.flags != nil && new(invocation).flagSet(&c).Lookup("no-wait") != nil && jobOfVerb[c.name] == "" {
			t.Errorf("this test does not know what job %s has", c.name)
		}
	}
	for verb, kind := range jobOfVerb {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			bus := clienttest.StartBus(t)
			d := clienttest.StartDaemon(t, bus)
			d.AddInstance("a", 27015, nil)
			d.AddOverlay("sm", map[string]string{"f": "text"})
			d.AddWorkshopOverlay("maps")
			d.SetPlan(kind, clienttest.Plan{Hold: true})
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "host.yaml"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "file.tar"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "left4ctl", append(strings.Fields(verb), sample(*find(verb))...)...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address, "TEST_PATIENCE=1ms", "GORACE=atexit_sleep_ms=0")
			var errs strings.Builder
			cmd.Stderr = &errs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			d.AwaitHeld(kind)
			d.Stop()
			cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != exitFailure || !strings.Contains(errs.String(), "hint: systemctl status left4d") {
				t.Errorf("exit status %d\n%s", code, &errs)
			}
		})
	}
}

// With everything that a person may do wrong in a name.
func TestNoNameMakesAVerbLoseItsWay(t *testing.T) {
	bus := clienttest.StartBus(t)
	clienttest.StartDaemon(t, bus)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.Address)
	t.Setenv("EDITOR", "true")
	for _, c := range verbs() {
		if c.min == 0 || c.name == "logs" || c.name == "monitor" {
			continue
		}
		for _, name := range []string{"", " ", "\xff", "-", "*", "[", "a*b?[c]", strings.Repeat("x", 300), "\x1b[2J", "../..", "a b", "=", "a=b"} {
			args := sample(c)
			if len(args) < c.min {
				t.Fatalf("there is no sample of the arguments of %s", c.name)
			}
			words := append(append(strings.Fields(c.name), "--", name), args[1:]...)
			var out, errs strings.Builder
			v := newInvocation(t.Context(), "0", strings.NewReader(""), &out, &errs)
			if code := v.run(words); code < 0 || code > exitUnknown {
				t.Errorf("%q: exit status %d", words, code)
			}
			if got := out.String() + errs.String(); strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && !harmless(r) }) {
				t.Errorf("%q: %q", words, got)
			}
		}
	}
}
