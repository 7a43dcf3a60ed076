package ring

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"left4.me/left4/test/report"
)

// answering answers whoever asks it by TCP and UDP.
const answering = `
import socket, threading
t = socket.create_server(("", 7777), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
u.bind(("", 7777))
def answer():
    while True:
        who = u.recvfrom(100)[1]
        u.sendto(b"yes", who)
threading.Thread(target=answer, daemon=True).start()
while True:
    c = t.accept()[0]
    c.sendall(b"yes")
    c.close()
`

// internet is where the machine's internet is, and own its own address there.
const (
	internet, internet6 = "203.0.113.2", "2001:db8::2"
	own                 = "203.0.113.1"
)

// bringNetwork gives the machine an internet of one host and private networks whose addresses are its own, with somebody who answers
// everywhere.
func (p play) bringNetwork(private []string) {
	p.t.Helper()
	p.WriteFile(p.t, "/usr/local/lib/answering.py", answering, 0o644)
	p.Run(p.t, append([]string{"sh", "-ec", `
		ip netns add internet
		ip link add near type veth peer name far netns internet
		ip addr add 203.0.113.1/24 dev near
		ip addr add 2001:db8::1/64 dev near nodad
		ip link set near up
		ip -n internet addr add 203.0.113.2/24 dev far
		ip -n internet addr add 2001:db8::2/64 dev far nodad
		ip -n internet link set far up
		for address; do case $address in 127.*|::1|0.0.0.0|::) ;; *) ip addr add "$address" dev lo ;; esac; done
		systemd-run --quiet --unit=here python3 /usr/local/lib/answering.py
		systemd-run --quiet --unit=there ip netns exec internet python3 /usr/local/lib/answering.py`, "sh"}, private...)...)
	for _, host := range []string{internet, internet6, "127.0.0.1"} {
		for _, kind := range []string{"tcp", "udp"} {
			p.Eventually(p.t, host+" answers", func() bool {
				return p.Try("left4-hostile", "try", "reach", kind, hostPort(host)).Code == 0
			})
		}
	}
}

func hostPort(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]:7777"
	}
	return host + ":7777"
}

// script makes or changes an overlay of type script.
func (p play) script(name, text string) {
	p.t.Helper()
	p.WriteFile(p.t, "/root/"+name+".sh", text, 0o644)
	if p.Try("left4ctl", "overlay", "show", name).Code != 0 {
		p.ctl("overlay", "create", name, "--type", "script", "--script", "/root/"+name+".sh")
		return
	}
	p.ctl("overlay", "configure", name, "--script", "/root/"+name+".sh")
}

func TestScriptOverlay(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.bringHostile()
		p.bringNetwork(nil)
		p.script("maps", `
			echo begins
			mkdir -p left4dead2/addons
			echo "$LEFT4_OVERLAY $LEFT4_JOB" >left4dead2/addons/made.txt
			printf '#!/bin/sh\necho runs\n' >"$TMPDIR/tool"
			chmod +x "$TMPDIR/tool"
			"$TMPDIR/tool"
			cp "$TMPDIR/tool" tool
			./tool >&2
			left4-hostile try reach tcp 203.0.113.2:7777
			echo one >>count
			# A daemon that nobody is to meet again.
			setsid sh -c 'trap "" TERM HUP INT; sleep 10007' >/dev/null 2>&1 </dev/null &
		`)
		r := p.Try("left4ctl", "overlay", "build", "-f", "maps")
		if r.Code != 0 || r.Out != "begins\nruns\nruns\ndone\n" {
			t.Fatalf("%+v", r)
		}
		if left := p.Try("pgrep", "-af", "sleep 10007"); left.Out != "" {
			t.Errorf("it has left %s", left.Out)
		}
		if units := p.Run(t, "systemctl", "list-units", "--all", "--no-legend", "left4-build-*"); units != "" {
			t.Errorf("units are left: %s", units)
		}
		p.ctl("create", "a", "--overlay=maps")
		p.ctl("start", "a")
		p.ready(27015)
		made := p.ReadFile(t, "/var/lib/left4/runtime/a/merged/left4dead2/addons/made.txt")
		if !strings.HasPrefix(made, "maps ") {
			t.Errorf("the server has %q", made)
		}

		// On top of what there is, or from nothing; what runs keeps what it has.
		p.script("maps", "echo two >>count\n")
		p.ctl("overlay", "build", "maps", "--on-top")
		if got := p.ReadFile(t, "/var/lib/left4/overlays/2/2/count"); got != "one\ntwo\n" {
			t.Errorf("on top: %q", got)
		}
		if got := p.ReadFile(t, "/var/lib/left4/runtime/a/merged/count"); got != "one\n" {
			t.Errorf("the server that runs has %q", got)
		}
		p.ctl("overlay", "build", "maps")
		if got := p.Run(t, "sh", "-c", "cd /var/lib/left4/overlays/2/3 && find . -type f"); got != "./count" {
			t.Errorf("from nothing: %q", got)
		}

		// What fails is told, the overlay stays as it is, and a terminal is not steered.
		p.script("maps", "echo out\nprintf 'bad \\033[2J\\033]0;x\\007\\xff\\xe2\\x80\\xae\\000end\\n'\necho 'curl: (6) no such host' >&2\nfalse\n")
		r = p.Try("left4ctl", "overlay", "build", "--follow", "maps")
		if r.Code != 1 || unsafe(r.Out+r.Err) || !strings.HasPrefix(r.Out, "out\nbad ") || !strings.Contains(r.Err, "cannot build overlay maps: the script ended with status 1 in line 4: curl: (6) no such host") {
			t.Errorf("%+v", r)
		}
		if got := p.ofOverlay("maps", "Revision"); got != "3" {
			t.Errorf("revision %s", got)
		}

		// Scripts are code of their author: neither operators nor the owner of the overlay have them by the shipped rule.
		p.AddUser(t, "olga", "left4-operators")
		p.WriteFile(t, "/tmp/s.sh", "true\n", 0o644)
		for _, argv := range [][]string{
			{"overlay", "create", "mine", "--script", "/tmp/s.sh"}, {"overlay", "configure", "maps", "--script", "/tmp/s.sh"}, {"overlay", "build", "maps"},
		} {
			if r := p.TryAs("olga", append([]string{"left4ctl", "--no-ask-password"}, argv...)...); r.Code == 0 || !strings.Contains(r.Err, "me.left4.overlay.script") {
				t.Errorf("olga: %v: %+v", argv, r)
			}
		}
		if r := p.TryAs("olga", "left4ctl", "overlay", "configure", "maps", "--keep", "2"); r.Code != 0 {
			t.Errorf("olga: %+v", r)
		}
	})
}

// What a script tries beyond its directory and the internet, from 32-bit and from 64-bit code.
func TestAbuseScript(t *testing.T) {
	private := []string{
		"127.0.0.1", "127.9.9.9", "10.1.2.3", "100.64.0.1", "169.254.1.1", "172.16.5.5", "172.31.0.1", "192.168.7.1", "0.0.0.0", "198.18.0.1",
		"::1", "fd00::1", "fe80::1234", "fec0::1", "64:ff9b::a01:203", "64:ff9b:1::1", "2002:a01:203::1",
	}
	eachPlay(t, func(t *testing.T, p play) {
		p.bringHostile()
		p.CopyIn(t, buildHostile(t, "386"), "/usr/local/bin/left4-hostile-32")
		p.bringNetwork(private)
		p.Run(t, "bash", "-c", "for ((i = 0; i < 1000; i++)); do /bin/true; done") // so that no process of the script has the server's number
		p.ctl("create", "b", "--overlay=hostile")
		p.ctl("start", "b")
		p.script("s", "true")
		p.ctl("overlay", "build", "s")
		p.WriteFile(t, "/etc/left4/left4d.conf", "[Builds]\nDNS=203.0.113.2\n", 0o644)
		p.Run(t, "sh", "-c", "echo secret >/srv/secret; echo secret >/root/secret; echo secret >/var/tmp/secret; chmod 644 /srv/secret /var/tmp/secret")
		server := strconv.Itoa(p.pid("b"))
		outside := []string{"/etc", "/usr/local", "/var/lib/left4/game", "/var/lib/left4/overlays/1", "/var/lib/left4/overlays/2/1", "/var/lib/left4/instances", "/var/lib/left4/runtime/b/upper"}
		before := p.traceOf(outside...)

		var refused [][]string
		no := func(what ...string) { refused = append(refused, what) }
		for _, try := range []string{"ptrace", "take-descriptor", "enter-namespaces", "slow-down", "pin", "starve-io", "signal", "kill", "signal-by-descriptor", "limit"} {
			no(try, server)
		}
		for _, host := range append(private, "::ffff:10.1.2.3", "::ffff:127.0.0.1") {
			no("reach", "tcp", hostPort(host))
			no("reach", "udp", hostPort(host))
		}
		for _, name := range []string{
			"/var/lib/left4/left4.db", "/var/lib/left4/overlays/1", "/var/lib/left4/overlays/2/1", "/var/lib/left4/instances", "/var/lib/left4/instances/b/plan.json", "/var/lib/left4/game",
			"/var/lib/left4/game/1/srcds_run", "/var/lib/left4/runtime", "/var/log/journal", "/var/tmp/secret", "/srv/secret", "/root/secret", "/etc/left4/left4d.conf",
			"/run/dbus/system_bus_socket", "/run/systemd/private", "/run/left4", "/proc/" + server,
		} {
			no("stat", name)
		}
		for _, file := range []string{"/etc/shadow", "/proc/kcore", "/proc/kmsg", "/dev/kmsg", "/dev/mem", "/dev/sda"} {
			no("read", file)
		}
		for _, file := range []string{
			"/etc/hostile", "/usr/local/hostile", "/run/hostile", "/var/hostile", "/var/lib/left4/hostile", "/var/lib/left4/overlays/2/hostile", "/dev/shm/hostile", "/var/tmp/hostile",
			"/sys/fs/cgroup/cgroup.procs", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/dev/hostile",
		} {
			no("create", file, "hostile")
		}
		for _, socket := range []string{
			"/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/journal/socket", "/run/systemd/journal/stdout", "/dev/log",
			"/run/systemd/userdb/io.systemd.DynamicUser", "/run/systemd/resolve/io.systemd.Resolve",
		} {
			no("dial", socket)
		}
		no("slow-down-user", "19")
		for n, try := range []string{"setuid", "setuid-2", "setuid-create", "setuid-openat2", "device", "block"} {
			no(try, "made"+strconv.Itoa(n))
		}
		for _, try := range []string{
			"user-namespace", "mount-namespace", "network-namespace", "cgroup-namespace", "process-namespace", "clone3", "mount", "bind", "new-mount", "open-tree", "chroot", "pivot-root",
			"uring", "bpf", "perf", "userfaultfd", "kexec", "module", "reboot", "swap", "clock", "host-name", "kernel-log", "personality", "real-time", "first-class",
			"root", "oom-proof", "change-address", "change-link", "change-route", "low-port",
		} {
			no(try)
		}
		no("socket", "17", "3") // packets of everybody
		allowed := [][]string{{"reach", "tcp", hostPort(internet)}, {"reach", "udp", hostPort(internet)}, {"reach", "tcp", hostPort(internet6)}, {"reach", "udp", hostPort(internet6)}, {"write-and-execute"}}

		var text strings.Builder
		text.WriteString("try() { wait=$1; shift; (\"$@\" 2>&1 || :) | tr '\\n' ' ' >\"$TMPDIR/answer-$wait\"; }\n")
		programs := []string{"left4-hostile", "left4-hostile-32"}
		var tried []string
		for i, what := range append(append([][]string{}, refused...), allowed...) {
			for _, program := range programs {
				line := program + " try " + strings.Join(what, " ")
				want := "no "
				if i >= len(refused) {
					want = "yes "
				}
				// In parallel: nobody says no to a packet that is dropped.
				background := ""
				if what[0] == "reach" {
					background = " &"
				}
				fmt.Fprintf(&text, "try %d %s%s\n", len(tried), line, background)
				tried = append(tried, want+line)
			}
		}
		text.WriteString("wait\nrm -f made*\nfor ((i = 0; i < " + strconv.Itoa(len(tried)) + "; i++)); do echo \"$i $(<\"$TMPDIR/answer-$i\")\"; done\n")
		// Last, what would end others, and what is public but the machine's own.
		fmt.Fprintf(&text, "echo resolver $(</etc/resolv.conf)\necho own $(left4-hostile try reach tcp %s || :)\nleft4-hostile try kill -1 || :\necho over\n", hostPort(own))
		p.script("s", text.String())
		r := p.Try("left4ctl", "overlay", "build", "-f", "s")
		if r.Code != 0 {
			t.Fatalf("%+v", r)
		}
		through, answers := 0, map[string]string{}
		for line := range strings.Lines(r.Out) {
			word, answer, _ := strings.Cut(strings.TrimSpace(line), " ")
			answers[word] = answer
		}
		for i, line := range tried {
			want, what, _ := strings.Cut(line, " ")
			answer := answers[strconv.Itoa(i)]
			if want == "no" && !strings.HasPrefix(answer, "refused: ") || want == "yes" && !strings.HasPrefix(answer, "done") {
				through++
				t.Errorf("%s: %s, want %s", what, answer, want)
			}
		}
		if got := answers["resolver"]; got != "nameserver 203.0.113.2" {
			t.Errorf("its resolver is %q", got)
		}
		note := "the machine's own public address is out of reach, too"
		if version := strings.Fields(p.Run(t, "systemctl", "--version"))[1]; version < "257" {
			note = "the machine's own public address is reached, as from the internet: Debian 12's systemd knows no RestrictNetworkInterfaces="
		} else if !strings.HasPrefix(answers["own"], "refused: ") {
			t.Errorf("it reaches the machine's own address: %s", answers["own"])
		}
		if got := strconv.Itoa(p.pid("b")); got != server {
			t.Errorf("the server is another process: %s, was %s", got, server)
		}
		if after := p.traceOf(outside...); after != before {
			t.Errorf("it has changed:\n%s", differences(before, after))
		}
		report.Add(t, report.Row{
			Table: "builders", Suite: p.Suite, Name: "what a script tries outside of its directory, 32-bit and 64-bit",
			Figures: []report.Figure{report.Count("tried", len(tried)-2*len(allowed)), report.Count("got through", through)}, Goal: "0 got through", Met: through == 0, Note: note,
		})
	})
}

// How scripts end that take too much or leave what may not be.
func TestAbuseScriptLimits(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.CopyIn(t, buildHostile(t, "amd64"), "/usr/local/bin/left4-hostile")
		rows := 0
		fails := func(text, want string, args ...string) {
			t.Helper()
			rows++
			p.script("s", text)
			r := p.Try(append([]string{"left4ctl", "overlay", "build", "s"}, args...)...)
			if r.Code != 1 || !regexp.MustCompile(want).MatchString(r.Err) {
				t.Errorf("%q: %+v, want %s", text, r, want)
			}
			if left := p.Run(t, "sh", "-c", "ls -A /var/lib/left4/overlays/1; systemctl list-units --all --no-legend 'left4-build-*'; pgrep -u left4 sleep || true"); left != "" {
				t.Errorf("%q left %s", text, left)
			}
		}
		fails("sleep 1000 & sleep 1000", "not done within 3s", "--timeout", "3s")
		fails("truncate -s 21G big", "the script ended with status 153 in line 1") // SIGXFSZ
		fails("mkfifo f", `"f": a FIFO is not allowed`)
		fails("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'", `"s": a socket is not allowed`)
		fails("left4-hostile try whiteout w", `"w": a device is not allowed`)
		fails("ln -s /etc/passwd l", `"l": a link to an absolute name, "/etc/passwd", is not allowed`)
		fails("mkdir d; ln -s ../../x d/l", `"d/l": a link out of the overlay, to "../../x", is not allowed`)
		fails("head -c 2G /dev/zero >$TMPDIR/x", "No space left on device")
		fails("kill -9 -1 || :; kill -9 $$; exit 7", "the script ended with status 7")
		// It may take what it likes, but only so much of it, and not what is left for the servers.
		fails("fallocate -l 19G a; fallocate -l 2G b; sleep 1000", "it has written more than 20 GiB")

		d := p.smallDisk(t, "/var/lib/left4", "state", "300M", 20000)
		if d == nil {
			t.Skip("no loop devices")
		}
		fails("head -c 400M /dev/zero >big", "No space left on device|the disk is nearly full")
		p.Run(t, "systemctl", "restart", "left4d")
		fails("fallocate -l $(($(stat -fc '%a * %S' .) - 8000000)) big; exec 9<>big; rm big; sleep 1000", "the disk is nearly full")
		// Nor does our own worker get it, where an archive has taken it over.
		p.WriteFile(t, "/usr/libexec/left4/left4-worker", "#!/bin/bash\nfallocate -l $(($(stat -fc '%a * %S' .) - 1000000)) big\nsleep 1000\n", 0o755)
		p.ctl("overlay", "create", "f")
		if r := p.Try("left4ctl", "overlay", "import", "f", "/root/s.sh"); r.Code != 1 || !strings.Contains(r.Err, "cannot import overlay f: the disk is nearly full") {
			t.Errorf("%+v", r)
		}
		if left := p.Run(t, "ls", "-A", "/var/lib/left4/overlays/2"); left != "1" {
			t.Errorf("the import left %s", left)
		}
		report.Add(t, report.Row{
			Table: "builders", Suite: p.Suite, Name: "scripts that take too much, or leave what has no place: refused or ended, with a cause",
			Figures: []report.Figure{report.Count("scripts", rows)}, Goal: "each fails with its cause and leaves nothing", Met: !t.Failed(),
		})
	})
}
