package polkit

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// TestSystem asks the machine's own polkitd, with the shipped actions and rule installed, about callers of several
// users. It makes users and rules, and stops and kills polkit: it is for a container that is thrown away, as root, with
// LEFT4_TEST_SYSTEM=1.
func TestSystem(t *testing.T) {
	if os.Getenv("LEFT4_TEST_SYSTEM") != "1" {
		t.Skip("needs a machine of its own: LEFT4_TEST_SYSTEM=1")
	}
	run(t, "systemd-sysusers", "--inline", "u left4-test-op -", "u left4-test-a -", "u left4-test-b -", "m left4-test-op left4-operators")
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	a := New(conn)
	root, op, alice, bob := conn.Names()[0], caller(t, "left4-test-op"), caller(t, "left4-test-a"), caller(t, "left4-test-b")

	type details = map[string]string
	theirs := details{"instance": "versus-1", "verb": "start", "owner": "left4-test-a"}
	nobodys := details{"instance": "versus-1", "verb": "start", "owner": ""}
	check := func(t *testing.T, who, action string, d details, want Answer) {
		t.Helper()
		got, err := a.Check(t.Context(), Request{Sender: who, Action: "me.left4." + action, Details: d})
		if err != nil || got != want {
			t.Errorf("Check %s %v = %v, %v; want %v", action, d, got, err, want)
		}
	}

	t.Run("root may all", func(t *testing.T) {
		for _, action := range []string{"instance.start", "instance.delete", "overlay.script", "administer"} {
			check(t, root, action, nobodys, Yes)
		}
	})
	t.Run("users are asked for a password", func(t *testing.T) {
		for _, action := range []string{"instance.create", "instance.start", "instance.secret", "game.install", "diagnose", "administer"} {
			check(t, bob, action, nobodys, Challenge)
			check(t, bob, action, theirs, Challenge)
		}
	})
	t.Run("operators may all but delete and script", func(t *testing.T) {
		for _, action := range []string{"instance.create", "instance.start", "instance.reset", "instance.secret", "blueprint.edit", "blueprint.inspect", "overlay.build", "overlay.inspect", "game.install", "job.cancel"} {
			check(t, op, action, theirs, Yes)
		}
		for _, action := range []string{"instance.delete", "blueprint.delete", "overlay.delete", "overlay.script", "repair", "administer"} {
			check(t, op, action, theirs, Challenge)
		}
	})
	t.Run("owners may all with what is theirs", func(t *testing.T) {
		for _, action := range []string{"instance.start", "instance.delete", "instance.secret", "blueprint.inspect", "overlay.delete", "overlay.inspect", "job.cancel"} {
			check(t, alice, action, theirs, Yes)
			check(t, alice, action, nobodys, Challenge)
			check(t, alice, action, nil, Challenge)
		}
		for _, action := range []string{"instance.create", "game.install", "overlay.script", "administer"} {
			check(t, alice, action, theirs, Challenge)
		}
	})
	t.Run("nobody to ask", func(t *testing.T) {
		got, err := a.Check(t.Context(), Request{bob, "me.left4.instance.start", nobodys, true})
		if err != nil || got != Challenge {
			t.Errorf("Check = %v, %v", got, err)
		}
	})
	t.Run("a caller who left", func(t *testing.T) {
		got, err := a.Check(t.Context(), Request{Sender: ":1.999999", Action: "me.left4.instance.start"})
		if got != No || err == nil {
			t.Errorf("Check = %v, %v", got, err)
		}
	})
	t.Run("an action that is not declared", func(t *testing.T) {
		got, err := a.Check(t.Context(), Request{Sender: bob, Action: "me.left4.instance.steal"})
		if got != No || err == nil {
			t.Errorf("Check = %v, %v", got, err)
		}
	})
	t.Run("rules by instance and verb", func(t *testing.T) {
		holds := rule(t, `action.id == "me.left4.instance.restart" && action.lookup("instance") == "versus-1" && action.lookup("verb") == "restart"`)
		holds(func() bool {
			got, err := a.Check(t.Context(), Request{Sender: bob, Action: "me.left4.instance.restart", Details: details{"instance": "versus-1", "verb": "restart"}})
			return err == nil && got == Yes
		})
		check(t, bob, "instance.restart", details{"instance": "versus-1", "verb": "restart"}, Yes)
		check(t, bob, "instance.restart", details{"instance": "versus-2", "verb": "restart"}, Challenge)
		check(t, bob, "instance.delete", details{"instance": "versus-1", "verb": "delete"}, Challenge)
	})
	t.Run("administer implies all", func(t *testing.T) {
		holds := rule(t, `action.id == "me.left4.administer"`)
		holds(func() bool {
			got, err := a.Check(t.Context(), Request{Sender: bob, Action: "me.left4.instance.create", Details: nobodys})
			return err == nil && got == Yes
		})
		actions, err := Actions(mustRead(t, "/usr/share/polkit-1/actions/me.left4.policy"))
		if err != nil {
			t.Fatal(err)
		}
		for _, action := range actions {
			check(t, bob, strings.TrimPrefix(action, "me.left4."), nobodys, Yes)
		}
	})
	t.Run("polkitd killed in the middle of a question", func(t *testing.T) {
		pid := strings.TrimSpace(run(t, "systemctl", "show", "-P", "MainPID", "polkit"))
		run(t, "kill", "-STOP", pid)
		answer := make(chan error)
		go func() {
			got, err := a.Check(t.Context(), Request{Sender: op, Action: "me.left4.instance.start", Details: theirs})
			if err == nil && got != Yes {
				err = fmt.Errorf("answer %v", got)
			}
			answer <- err
		}()
		run(t, "kill", "-KILL", pid)
		if err := <-answer; err != nil {
			t.Error(err)
		}
	})
	t.Run("no polkitd", func(t *testing.T) {
		run(t, "systemctl", "mask", "--runtime", "--now", "polkit")
		defer run(t, "systemctl", "unmask", "--runtime", "polkit")
		got, err := a.Check(t.Context(), Request{Sender: op, Action: "me.left4.instance.start", Details: theirs})
		if got != No || err == nil {
			t.Errorf("Check = %v, %v", got, err)
		}
		t.Log(err)
	})
}

// caller connects to the bus as a user and returns the unique name. The connection stays until the test ends.
func caller(t *testing.T, name string) string {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	// As a login sets them: polkit 122 looks the groups of the user up, 126 takes those of the process.
	var groups []uint32
	ids, err := u.GroupIds()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		n, _ := strconv.Atoi(id)
		groups = append(groups, uint32(n))
	}
	cmd := exec.Command(os.Args[0], "-test.run=TestHelperCaller")
	cmd.Env = append(os.Environ(), "LEFT4_TEST_CALLER=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: groups}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// TestHelperCaller is no test but the process that caller starts.
func TestHelperCaller(t *testing.T) {
	if os.Getenv("LEFT4_TEST_CALLER") != "1" {
		t.Skip("part of TestSystem")
	}
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(conn.Names()[0])
	bufio.NewReader(os.Stdin).ReadByte()
	os.Exit(0)
}

// rule lets left4-test-b do what condition says, until the test ends. polkitd tells by its signal Changed that it has read
// its rules, of a file more than once and of the one before it late: what is returned waits until this one holds.
func rule(t *testing.T, condition string) (holds func(func() bool)) {
	t.Helper()
	const file = "/etc/polkit-1/rules.d/10-left4-test.rules"
	text := `polkit.addRule(function (action, subject) { if (subject.user == "left4-test-b" && ` + condition + `) { return polkit.Result.YES; } });`
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	changed := make(chan *dbus.Signal, 100)
	conn.Signal(changed)
	if err := conn.AddMatchSignal(dbus.WithMatchInterface(authority), dbus.WithMatchMember("Changed")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	<-changed
	holds = func(yes func() bool) {
		t.Helper()
		for deadline := time.After(time.Minute); !yes(); {
			select {
			case <-changed:
			case <-deadline:
				t.Fatal("the rule never holds")
			}
		}
	}
	t.Cleanup(func() {
		for len(changed) > 0 {
			<-changed
		}
		os.Remove(file)
		<-changed
		conn.Close()
	})
	return holds
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, errs.String())
	}
	return out.String()
}
