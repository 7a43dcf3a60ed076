package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"left4.me/left4/client"
	"left4.me/left4/client/clienttest"
)

// The test's own program is its ssh.
func TestMain(m *testing.M) {
	if os.Getenv("LEFT4_TEST_SSH") != "" {
		os.Exit(clienttest.SSH(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// hosts puts an ssh into PATH that reaches web1, on which a left4d runs, and returns its directory.
func hosts(t *testing.T) (string, *clienttest.Daemon) {
	t.Helper()
	bus := clienttest.StartBus(t)
	d := clienttest.StartDaemon(t, bus)
	dir := t.TempDir()
	write(t, dir+"/web1", bus.Address, 0o644)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/bin/ssh", "#!/bin/sh\nLEFT4_TEST_SSH=1 exec "+self+` "$@"`, 0o755)
	t.Setenv("PATH", dir+"/bin:"+os.Getenv("PATH"))
	t.Setenv(clienttest.Hosts, dir)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/none") // that of this machine is not to be used
	return dir, d
}

func sshCalls(t *testing.T, dir string) string {
	b, err := os.ReadFile(dir + "/calls")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

// heard is what ssh says.
type heard struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.String()
}

func TestAnotherHostIsReachedThroughSSH(t *testing.T) {
	dir, d := hosts(t)
	d.AddInstance("a", 27015, nil)
	d.SetPlan("start", clienttest.Plan{Steps: []clienttest.Step{{Status: "rendering"}}})
	var said heard
	c, err := client.Remote{Host: "root@web1:2222", Stderr: &said}.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := watch(t, t.Context(), c)
	next("snapshot missed=false game=7 blueprints=0 overlays=0 [a stopped]")
	d.SetProperties("a", map[string]any{"Label": "A"})
	next(`instance a changed [Label]: stopped, label "A", port 27015`)
	job, err := c.StartInstance(t.Context(), "a", client.JobOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := job.Wait(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	expect(t, d.Calls(), []string{"StartInstance a {} interactive"})
	next("job 1 added: start a by root", "job 1 changed [Started State]: queued → running ", "job 1 changed [Progress Status]: running → running rendering",
		"job 1 changed [Cancelable Finished State]: running → done rendering", "job 1 ended: start a done: ")

	d.Stop()
	next("gone with an error=false")
	d.Start()
	next("snapshot missed=false game=7 blueprints=0 overlays=0 [a stopped, 1 done]")
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	next("error the connection to root@web1:2222 is closed")
	_, err = c.ListInstances(t.Context())
	if !client.IsUnavailable(err) {
		t.Errorf("ListInstances: %v", err)
	}
	expect(t, said.String(), "Warning: Permanently added 'web1' (ED25519) to the list of known hosts.\n")
	expect(t, sshCalls(t, dir), "-xT -p 2222 -- root@web1 systemd-stdio-bridge\n")
}

// What the bus of another machine is told by strangers there is not believed either.
func TestSignalsOfOthersAreNotBelievedThroughSSH(t *testing.T) {
	dir, d := hosts(t)
	d.AddInstance("a", 27015, nil)
	c, err := client.Remote{Host: "web1"}.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	next := watch(t, t.Context(), c)
	next("snapshot missed=false game=7 blueprints=0 overlays=0 [a stopped]")
	address, err := os.ReadFile(dir + "/web1")
	if err != nil {
		t.Fatal(err)
	}
	f := newForger(t, &clienttest.Bus{Address: string(address)}, false)
	f.send("/me/left4", "me.left4.Manager", "InstanceStateChanged", "a", "stopped", "failed", "a lie")
	f.flush()
	d.SetProperties("a", map[string]any{"Label": "true"})
	next(`instance a changed [Label]: stopped, label "true", port 27015`)
}

func TestNoDescriptorIsSentThroughSSH(t *testing.T) {
	_, d := hosts(t)
	d.AddOverlay("sm", map[string]string{"a": "x"})
	c, err := client.Remote{Host: "web1"}.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, game := c.ImportGame(t.Context(), f, 0, client.JobOptions{})
	_, overlay := c.ImportOverlay(t.Context(), "sm", f, client.ImportOptions{})
	_, open := c.OpenOverlayFile(t.Context(), "sm", "a", 0)
	for err, want := range map[error]string{
		game:    "cannot import the game over ssh: run it on web1 itself",
		overlay: "cannot import into overlay sm over ssh: run it on web1 itself",
		open:    "cannot read a file of overlay sm over ssh: run it on web1 itself",
	} {
		if !errors.Is(err, client.ErrNotSupported) || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	expect(t, d.Calls(), []string{})
	if entries, _, err := c.ListOverlayFiles(t.Context(), "sm", "", 0); err != nil || len(entries) != 1 {
		t.Errorf("the connection is gone: %v, %v", entries, err)
	}
}

func TestWhyAHostCannotBeReachedIsTold(t *testing.T) {
	for _, tt := range []struct{ host, said, quiet, loud string }{
		{"web2", "ssh: connect to host web2 port 22: Connection refused\n", "ssh: connect to host web2 port 22: Connection refused", "ssh failed"},
		{"chatty.test", "", `something else than the bus answers there: "Welcome!"`, ""},
		{"endless.test", "", `something else than the bus answers there: "` + strings.Repeat("A", 200) + `"`, ""},
		{"closed.test", "", `something else than the bus answers there: "This account is currently not available."`, ""},
		{"bare.test", "bash: line 1: systemd-stdio-bridge: command not found\n", "bash: line 1: systemd-stdio-bridge: command not found", "there is no systemd-stdio-bridge on it"},
		{"dead.test", "", "systemd-stdio-bridge ended there: exit status 1", ""},
		{"lingering.test", "Permission denied\n", "Permission denied", "ssh failed"},
	} {
		t.Run(tt.host, func(t *testing.T) {
			dir, _ := hosts(t)
			for _, loud := range []bool{false, true} {
				var said heard
				r := client.Remote{Host: "admin@" + tt.host, Batch: true}
				want := "cannot reach admin@" + tt.host + ": " + tt.quiet
				if loud {
					r.Stderr = &said
					if tt.loud != "" {
						want = "cannot reach admin@" + tt.host + ": " + tt.loud
					}
				}
				_, err := r.Dial(t.Context())
				if !client.IsUnavailable(err) || err.Error() != want {
					t.Errorf("%v, want %s", err, want)
				}
				if loud {
					expect(t, said.String(), tt.said)
				}
				if pid, err := os.ReadFile(dir + "/lingering"); err == nil {
					n, _ := strconv.Atoi(string(pid))
					syscall.Kill(n, syscall.SIGKILL)
				}
			}
			call := "-xT -oBatchMode=yes -- admin@" + tt.host + " systemd-stdio-bridge\n"
			expect(t, sshCalls(t, dir), call+call)
		})
	}
}

func TestConnectingEndsWithItsContext(t *testing.T) {
	for _, host := range []string{"silent.test", "stubborn.test"} {
		t.Run(host, func(t *testing.T) {
			hosts(t)
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err := client.Remote{Host: host}.Dial(ctx)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "cannot reach "+host+": ") {
				t.Error(err)
			}
		})
	}
}

func TestWithoutSSHThatIsTold(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := client.Remote{Host: "web1"}.Dial(t.Context())
	expect(t, err, "cannot reach web1: ssh is not installed")
}

// ssh that is killed under a call, as a network that fails.
func TestTheEndOfSSHIsTold(t *testing.T) {
	dir, d := hosts(t)
	d.AddInstance("a", 27015, nil)
	d.SetPlan("start", clienttest.Plan{Hold: true})
	c, err := client.Remote{Host: "web1"}.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	job, err := c.StartInstance(t.Context(), "a", client.JobOptions{})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		d.AwaitHeld("start")
		killChildren(t, dir)
	}()
	_, err = job.Wait(t.Context(), nil)
	if !client.IsUnavailable(err) {
		t.Errorf("Wait: %v", err)
	}
	_, err = c.ListInstances(t.Context())
	expect(t, err, "the connection to web1 is lost: ssh has ended (signal: killed)")
}

// killChildren kills the ssh of this test.
func killChildren(t *testing.T, dir string) {
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Error(err)
	}
	for _, file := range tasks {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for _, pid := range strings.Fields(string(b)) {
			environ, err := os.ReadFile("/proc/" + pid + "/environ")
			if err == nil && bytes.Contains(environ, []byte(clienttest.Hosts+"="+dir)) && bytes.Contains(environ, []byte("LEFT4_TEST_SSH=")) {
				n, _ := strconv.Atoi(pid)
				syscall.Kill(n, syscall.SIGKILL)
			}
		}
	}
}

func TestHostsThatAreNoneNeverReachSSH(t *testing.T) {
	dir, _ := hosts(t)
	for _, host := range []string{
		"", "-", "-oProxyCommand=touch /tmp/x", "root@-oProxyCommand=x", "-l@web1", "@web1", "root@", "web1:", "web1:0", "web1:x", "web1:65536",
		"web1 -v", "web1\n", "$(id)", "web`id`", "a;b", "web1/machine", "web1:machine", "::1:x", "[::1", "[::1]22", "[::1]:", "[web1]:22", "[-v]",
		"fe80::1%$(id)", "ro ot@web1", "ro$ot@web1", "wéb", "web1\x00", "ssh://web1",
	} {
		_, err := client.Remote{Host: host}.Dial(t.Context())
		if !errors.Is(err, client.ErrInvalidArgument) {
			t.Errorf("%q: %v", host, err)
		}
		if _, err := (client.Remote{Host: host}).Command("true"); !errors.Is(err, client.ErrInvalidArgument) {
			t.Errorf("%q: %v", host, err)
		}
	}
	expect(t, sshCalls(t, dir), "")
}

func TestCommandLinesOfSSH(t *testing.T) {
	for host, want := range map[string]string{
		"web1":                "-- web1",
		"root@web1":           "-- root@web1",
		"me@corp.test@web1:2": "-p 2 -- me@corp.test@web1",
		"192.0.2.1:22":        "-p 22 -- 192.0.2.1",
		"::1":                 "-- ::1",
		"root@[2001:db8::1]":  "-- root@2001:db8::1",
		"[fe80::1%eth0]:2222": "-p 2222 -- fe80::1%eth0",
		"my_host-2.example":   "-- my_host-2.example",
	} {
		argv, err := client.Remote{Host: host}.Command("true")
		expect(t, fmt.Sprint(argv, err), "[ssh -xT "+want+" true] <nil>")
	}
	argv, err := client.Remote{Host: "web1"}.Command("journalctl", "--grep", "it's $(x) *", "")
	expect(t, fmt.Sprintf("%q %v", argv, err), `["ssh" "-xT" "--" "web1" "journalctl" "--grep" "'it'\\''s $(x) *'" "''"] <nil>`)
}
