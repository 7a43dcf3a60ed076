// Package packaging holds no code: what lands on a machine is checked here as far as it can be without one.
package packaging

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"left4.me/left4/client/left4ctl/ctl"
)

func text(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func help(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, append([]string{"help"}, args...)...)
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := ctl.Run(context.Background(), "0", args, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("%v: exit status %d\n%s", args, code, errs.String())
	}
	return out.String()
}

// completed are the words that could come next on a command line.
func completed(t *testing.T, line string, next string) []string {
	t.Helper()
	var words []string
	lines := strings.Split(run(t, append(append([]string{"__complete", "--"}, strings.Fields(line)...), next)...), "\n")
	for _, line := range lines[1:] {
		word, _, _ := strings.Cut(line, "\t")
		words = append(words, word)
	}
	return words
}

func TestManualAndCompletionsKnowEveryVerbAndFlag(t *testing.T) {
	manual := text(t, "man/left4ctl.1")
	for _, file := range []string{"completions/left4ctl.bash", "completions/_left4ctl", "completions/left4ctl.fish"} {
		if !strings.Contains(text(t, file), " __complete -- ") {
			t.Errorf("%s does not ask left4ctl", file)
		}
	}
	verbs := regexp.MustCompile(`(?m)^  ([a-z]+(?: [a-z]+)?)(?: [A-Z[][^ ]*)*  +\S`).FindAllStringSubmatch(help(t), -1)
	if len(verbs) < 15 {
		t.Fatalf("help lists only %v", verbs)
	}
	for _, v := range verbs {
		verb := v[1]
		if !regexp.MustCompile(`(?m)^\.It Cm ` + verb + `( |$)`).MatchString(manual) {
			t.Errorf("left4ctl(1) does not know %s", verb)
		}
		before, last := "", verb
		if at := strings.LastIndexByte(verb, ' '); at >= 0 {
			before, last = verb[:at], verb[at+1:]
		}
		if !slices.Contains(completed(t, before, ""), last) {
			t.Errorf("%s is not completed", verb)
		}
		flags := completed(t, verb, "--")
		for _, f := range regexp.MustCompile(`(?m)^ +(?:-[a-zA-Z], )?--([a-z-]+)`).FindAllStringSubmatch(help(t, strings.Fields(verb)...), -1) {
			flag := f[1]
			if !regexp.MustCompile(`(?m)^\.It .*Fl -` + flag + `( |$)`).MatchString(manual) {
				t.Errorf("left4ctl(1) does not know --%s of %s", flag, verb)
			}
			if !slices.Contains(flags, "--"+flag) {
				t.Errorf("--%s of %s is not completed", flag, verb)
			}
		}
	}
}

func TestTheManualKnowsEverySetting(t *testing.T) {
	keys := regexp.MustCompile(`(?m)^#([A-Za-z]+)=`).FindAllStringSubmatch(text(t, "left4d.conf"), -1)
	if len(keys) < 10 {
		t.Fatalf("left4d.conf has only %v", keys)
	}
	manual := text(t, "man/left4d.conf.5")
	for _, key := range keys {
		if !strings.Contains(manual, "\n.It Cm "+key[1]+" Ns = Ns ") {
			t.Errorf("left4d.conf(5) does not know %s=", key[1])
		}
	}
}

func TestManualsAreWellFormed(t *testing.T) {
	program, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("mandoc is not installed")
	}
	pages, err := filepath.Glob("man/*.[1-8]")
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	for _, page := range pages {
		if out, err := exec.Command(program, "-T", "lint", "-W", "warning", page).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", page, err, out)
		}
	}
}

// directives returns the lines of a unit file by section, comments left out.
func directives(t *testing.T, file string) map[string][]string {
	t.Helper()
	sections := map[string][]string{}
	section := ""
	for line := range strings.Lines(text(t, file)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = line
		default:
			sections[section] = append(sections[section], line)
		}
	}
	return sections
}

func name(directive string) string {
	n, _, _ := strings.Cut(directive, "=")
	return n
}

func TestUnitsAreInOrderAndDocumented(t *testing.T) {
	files, err := filepath.Glob("systemd/*")
	if err != nil || len(files) != 7 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		sections := directives(t, file)
		for section, lines := range sections {
			if !slices.IsSortedFunc(lines, func(a, b string) int { return strings.Compare(name(a), name(b)) }) {
				t.Errorf("%s %s is not in alphabetical order", file, section)
			}
		}
		documented := false
		for _, d := range sections["[Unit]"] {
			if page := regexp.MustCompile(`^Documentation=man:(\S+)\((\d)\)$`).FindStringSubmatch(d); page != nil {
				documented = true
				if _, err := os.Stat("man/" + page[1] + "." + page[2]); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
		if !documented {
			t.Errorf("%s has no Documentation=", file)
		}
	}
}

// What gives a unit a mount namespace, systemd 252 to 257. The helper would mount in there, and the server would find
// an empty directory.
var needsNamespace = regexp.MustCompile(`^(BindPaths|BindReadOnlyPaths|DynamicUser|ExecPaths|ExtensionDirectories|ExtensionImages|` +
	`ImportCredential|InaccessiblePaths|LoadCredential|LogNamespace|MountAPIVFS|MountFlags|MountImages|NoExecPaths|` +
	`Private(Devices|IPC|Mounts|Network|PIDs|Tmp|Users)|ProcSubset|Protect(ControlGroups|Home|KernelLogs|KernelModules|KernelTunables|Proc|System)|` +
	`ReadOnlyPaths|ReadWritePaths|RootDirectory|RootImage|SetCredential|TemporaryFileSystem|` +
	`(Cache|Configuration|Logs|Runtime|State)Directory)=`)

func TestOverlaysAreMountedInTheHostsNamespace(t *testing.T) {
	for _, d := range directives(t, "systemd/left4-overlay@.service")["[Service]"] {
		if needsNamespace.MatchString(d) {
			t.Errorf("%s would give the mount helper a mount namespace", d)
		}
	}
}

func TestEveryFileIsPackaged(t *testing.T) {
	list := text(t, "nfpm.yaml")
	for _, dir := range []string{"completions", "dbus", "polkit", "sysusers.d", "tmpfiles.d"} {
		files, err := filepath.Glob(dir + "/*")
		if err != nil || len(files) == 0 {
			t.Fatal(dir, err)
		}
		for _, file := range files {
			if !strings.Contains(list, "src: packaging/"+file+",") {
				t.Errorf("%s is in no package", file)
			}
		}
	}
	if !strings.Contains(list, "src: packaging/left4d.conf,") {
		t.Error("left4d.conf is in no package")
	}
	pages, err := filepath.Glob("man/*")
	if err != nil || len(pages) == 0 {
		t.Fatal("man", err)
	}
	for _, page := range pages {
		if section := "man" + strings.TrimPrefix(filepath.Ext(page), "."); !strings.Contains(list, `src: "${STAGE}/`+section+`/*", dst: /usr/share/man/`+section+"/,") {
			t.Errorf("%s is in no package", page)
		}
	}
}

// references are the pages that a page sends its reader to, as me.left4.5.
func references(page string) []string {
	var all []string
	for _, r := range regexp.MustCompile(`(?m)^\.Xr (\S+) (\d)`).FindAllStringSubmatch(page, -1) {
		all = append(all, r[1]+"."+r[2])
	}
	return all
}

func TestPagesReferToEachOther(t *testing.T) {
	pages, err := filepath.Glob("man/*")
	if err != nil || len(pages) < 5 {
		t.Fatal(pages, err)
	}
	mentioned := map[string]bool{}
	for _, page := range pages {
		for _, r := range references(text(t, page)) {
			mentioned[r] = true
			if _, err := os.Stat("man/" + r); err != nil && strings.Contains(r, "left4") {
				t.Errorf("%s refers to %s, which there is not", page, r)
			}
		}
	}
	for _, page := range pages {
		if !mentioned[filepath.Base(page)] {
			t.Errorf("no page refers to %s", page)
		}
	}
}
