package ring

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"left4.me/left4/dbus/names"
)

// session runs a command as a user on a terminal, in a session of logind's, as ssh makes one: without it polkit does not
// use an agent that left4ctl, as systemctl does, offers as a fallback only.
func (p play) session(user string, argv ...string) *Process {
	p.t.Helper()
	return p.Start(p.t, append([]string{"systemd-run", "--quiet", "--wait", "--collect", "--pty", "--uid=" + user, "--property=PAMName=login"}, argv...)...)
}

// answer waits for pkttyagent's question and answers it.
func (p play) answer(asking *Process, password string) (question string) {
	p.t.Helper()
	question = asking.Expect(p.t, "Password: ")
	p.typePassword(asking, password)
	return question
}

func (p play) typePassword(asking *Process, password string) {
	p.t.Helper()
	// What is typed between the question and the end of the echo is thrown away.
	p.Eventually(p.t, "the terminal shows no password", func() bool {
		return p.Try("sh", "-ec", `stty -F "/dev/$(ps -C pkttyagent -o tty=)" -a | grep -qw -e -echo`).Code == 0
	})
	asking.Type(p.t, password+"\n")
}

// bringScript puts a program of testdata/ into the machine, for all users.
func (p play) bringScript(name string) {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		p.t.Fatalf("%v", err)
	}
	p.WriteFile(p.t, "/usr/local/bin/"+name, string(text), 0o755)
}

// manyCalls has root and an operator make calls side by side, three a round, and returns how long each kind took.
func (p play) manyCalls(rounds int) string {
	p.t.Helper()
	root := p.Start(p.t, "calls.py", strconv.Itoa(rounds), "b")
	olga := p.Start(p.t, asUser("olga", []string{"calls.py", strconv.Itoa(rounds), "c"})...)
	var all strings.Builder
	for who, calls := range map[string]*Process{"root": root, "an operator": olga} {
		out, code := calls.Wait(p.t)
		if code != 0 {
			p.t.Fatalf("the calls of %s: %d\n%s", who, code, out)
		}
		fmt.Fprintf(&all, "%s, median and longest in ms: %s\n", who, strings.ReplaceAll(strings.TrimSpace(out), "\n", ", "))
	}
	return all.String()
}

// Somebody at a password prompt is asked for what is to be done, and delays nobody.
func TestAPasswordIsAsked(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.AddUser(t, "bob")
		p.AddUser(t, "olga", "left4-operators")
		p.RunInput(t, strings.NewReader("root:open sesame\n"), "chpasswd")
		p.bringScript("calls.py")
		p.bringScript("ask.py")
		for _, name := range []string{"a", "b", "c"} {
			p.ctl("create", name)
		}
		p.ctl("start", "a")
		p.ready(27015)
		pid := strconv.Itoa(p.MainPID(t, "left4d.service"))
		holds := func() int { return len(p.list("/proc/" + pid + "/fd")) }
		polkit := p.Start(t, "busctl", "monitor", "org.freedesktop.PolicyKit1")
		polkit.Expect(t, "Monitoring bus message stream")
		usual := p.manyCalls(50)
		held := holds()

		wrong := p.session("bob", "left4ctl", "stop", "a")
		question := wrong.Expect(t, "Password: ")
		if !strings.Contains(question, "Authentication is required to stop the game server a.") {
			t.Errorf("the question does not say what for: %s", question)
		}
		began := time.Now()
		meanwhile := p.manyCalls(170)
		t.Logf("before the prompt:\n%swhile it was open, 1020 calls in %s:\n%s", usual, time.Since(began).Round(time.Millisecond), meanwhile)
		// Nor is what the question is about kept from those who need no password.
		p.ctl("restart", "a")
		select {
		case <-wrong.done:
			out, code := wrong.Wait(t)
			t.Fatalf("the prompt is gone: %d, %s", code, out)
		default:
		}
		p.typePassword(wrong, "guess")
		if out, code := wrong.Wait(t); code != 1 || p.get("a", "State") != "running" {
			t.Errorf("a wrong password: %d, %s", code, out)
		}

		gone := p.session("bob", "left4ctl", "stop", "a")
		gone.Expect(t, "Password: ")
		p.Run(t, "pkill", "-KILL", "-u", "bob", "-x", "left4ctl")
		// The agent goes with it, so that polkit may know before left4d does.
		gone.Wait(t)
		p.Eventually(t, "the call has ended", func() bool { return len(p.entries(names.MessageCall, "LEFT4_CALLER=bob", "LEFT4_RESULT=refused")) == 2 })

		// More than one user may have open, all left behind: those are taken back, the others are not asked any more, and
		// the next one is.
		const most = 8
		ask := p.session("bob", "ask.py", "70", "a")
		for range most {
			ask.Expect(t, "asked: ")
		}
		p.RunAs(t, "olga", "left4ctl", "restart", "b")
		p.Run(t, "pkill", "-KILL", "-u", "bob", "--oldest", "-f", "ask.py")
		for range most {
			polkit.Expect(t, "Member=CancelCheckAuthorization")
		}
		p.Run(t, "pkill", "-KILL", "-u", "bob", "-f", "ask.py") // the agent
		if out, _ := ask.Wait(t); strings.Contains(out, "asked: ") {
			t.Errorf("more than %d were asked: %s", most, out)
		}
		p.Eventually(t, "left4d holds no more than before", func() bool { return holds() <= held })

		right := p.session("bob", "left4ctl", "stop", "a")
		p.answer(right, "open sesame")
		if out, code := right.Wait(t); code != 0 {
			t.Errorf("the right password: %d, %s", code, out)
		}
		if cause := p.get("a", "Cause"); p.get("a", "State") != "stopped" || !strings.HasPrefix(cause, "stopped by bob (job ") {
			t.Errorf("a is %s: %s", p.get("a", "State"), cause)
		}
		if got := strconv.Itoa(p.MainPID(t, "left4d.service")); got != pid {
			t.Errorf("left4d was restarted: %s, %s", pid, got)
		}
	})
}
