//go:build linux && amd64

package trace

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// deeds is how many directories the child makes.
const deeds = 12

// TestMain is the child, too: it waits for a line, makes directories one after the other and says what came of each.
func TestMain(m *testing.M) {
	dir := os.Getenv("LEFT4_TRACE_CHILD")
	if dir == "" {
		os.Exit(m.Run())
	}
	bufio.NewReader(os.Stdin).ReadString('\n')
	a, b, err := streams()
	if err != nil {
		panic(err)
	}
	for n := range deeds {
		err := os.Mkdir(filepath.Join(dir, strconv.Itoa(n+1)), 0o755)
		if err == nil {
			// From other threads, too.
			done := make(chan error)
			go func() { done <- os.WriteFile(filepath.Join(dir, strconv.Itoa(n+1), "file"), []byte("text"), 0o644) }()
			err = <-done
		}
		fmt.Println(n+1, errors.Is(err, unix.ENOSPC), err)
	}
	// What is read back, printed or sent as a datagram changes nothing here.
	os.ReadFile(filepath.Join(dir, "1", "file"))
	if _, err := a.Write([]byte("hello")); err != nil {
		panic(err)
	}
	if _, err := b.Read(make([]byte, 5)); err != nil {
		panic(err)
	}
}

// streams are two ends of a connection.
func streams() (a, b net.Conn, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ends := make([]net.Conn, 2)
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "socket")
		if ends[i], err = net.FileConn(f); err != nil {
			return nil, nil, err
		}
		f.Close()
	}
	return ends[0], ends[1], nil
}

type child struct {
	*exec.Cmd // of the shell that waits for it: this process must not, see Attach
	dir       string
	out       bytes.Buffer
	tracee    *Tracee
}

// start starts the child, traced, and lets it go on.
func start(t *testing.T, plan Plan) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const shell = `exec 3<&0; { %s exec "$0" <&3; } & echo $! >&4; wait $!`
	before := ""
	if plan.Exec { // what is done before is not numbered
		before = `mkdir "$LEFT4_TRACE_CHILD/of-the-shell"; read go <&3;`
	}
	c := &child{dir: t.TempDir(), Cmd: exec.Command("sh", "-c", fmt.Sprintf(shell, before), exe)}
	c.Env = append(os.Environ(), "LEFT4_TRACE_CHILD="+c.dir, "GORACE=atexit_sleep_ms=0")
	c.Stdout, c.Stderr = &c.out, &c.out
	told, tell, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	c.ExtraFiles = []*os.File{nil, tell}
	in, err := c.StdinPipe()
	if err == nil {
		err = c.Start()
	}
	tell.Close()
	pid := 0
	if err == nil {
		_, err = fmt.Fscan(told, &pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	if c.tracee, err = Attach(pid, plan); errors.Is(err, unix.EPERM) {
		c.Process.Kill()
		c.Wait()
		t.Skipf("processes may not be traced here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "go\ngo\n")
	return c
}

// made are the directories that the child has made, in order.
func (c *child) made(t *testing.T) (made []int) {
	t.Helper()
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			made = append(made, n)
		}
	}
	slices.Sort(made)
	return made
}

func upTo(n int) (all []int) {
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

func mkdirs(c Call) bool { return strings.HasPrefix(c.Name, "mkdir") }

func TestCallsThatChangeTheWorldAreListed(t *testing.T) {
	for _, exec := range []bool{false, true} {
		c := start(t, Plan{Exec: exec})
		if err := c.Wait(); err != nil {
			t.Fatalf("the child: %v\n%s", err, c.out.String())
		}
		calls, err := c.tracee.Detach()
		if err != nil {
			t.Fatal(err)
		}
		var want, got []string
		for n := range deeds {
			dir := filepath.Join(c.dir, strconv.Itoa(n+1))
			want = append(want, "mkdirat "+dir, "openat "+dir+"/file", "write "+dir+"/file")
		}
		want = append(want, "write bytes")
		for _, call := range calls {
			got = append(got, call.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("exec %v: got\n%s\nwant\n%s", exec, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// What is killed at its Nth call has made all before it, and none of the rest.
func TestAProgramIsKilledAtACall(t *testing.T) {
	for _, n := range []int{1, 2, deeds} {
		c := start(t, Plan{Counts: mkdirs, At: n})
		<-c.tracee.Met()
		err := c.Wait()
		if c.ProcessState.ExitCode() != 128+int(unix.SIGKILL) {
			t.Errorf("at %d: the child ended with %v", n, err)
		}
		if calls, err := c.tracee.Detach(); err != nil || len(calls) != n {
			t.Errorf("at %d: %d calls, %v", n, len(calls), err)
		}
		if got := c.made(t); !slices.Equal(got, upTo(n-1)) {
			t.Errorf("killed at %d it has made %v", n, got)
		}
	}
}

// A call that is to fail fails and does nothing; the program goes on.
func TestACallFails(t *testing.T) {
	const n = 5
	c := start(t, Plan{Counts: mkdirs, At: n, Errno: unix.ENOSPC})
	if err := c.Wait(); err != nil {
		t.Fatalf("the child: %v\n%s", err, c.out.String())
	}
	calls, err := c.tracee.Detach()
	if err != nil || len(calls) != deeds || !c.tracee.Hit() {
		t.Errorf("%d calls, hit: %v, %v", len(calls), c.tracee.Hit(), err)
	}
	if got, want := c.made(t), slices.Delete(upTo(deeds), n-1, n); !slices.Equal(got, want) {
		t.Errorf("it has made %v, not %v", got, want)
	}
	for line := range strings.Lines(c.out.String()) {
		if failed := strings.HasPrefix(line, "5 "); strings.Contains(line, " true ") != failed {
			t.Errorf("the child says %s", line)
		}
	}
}

// Who is not met is let go, and ends as ever.
func TestAProgramIsLetGo(t *testing.T) {
	c := start(t, Plan{At: 1000})
	if _, err := c.tracee.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatalf("the child: %v\n%s", err, c.out.String())
	}
	if got := c.made(t); !slices.Equal(got, upTo(deeds)) || c.tracee.Hit() {
		t.Errorf("it has made %v, hit: %v", got, c.tracee.Hit())
	}
}

func TestMessagesAreNamed(t *testing.T) {
	for want, m := range map[string]dbus.Message{
		"call StartUnit": {Type: dbus.TypeMethodCall, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/org/x")), dbus.FieldMember: dbus.MakeVariant("StartUnit"),
			dbus.FieldInterface: dbus.MakeVariant("org.x.Manager"), dbus.FieldDestination: dbus.MakeVariant("org.x"),
			dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf("a")),
		}, Body: []any{"a"}},
		"signal JobRemoved": {Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/")), dbus.FieldMember: dbus.MakeVariant("JobRemoved"),
			dbus.FieldInterface: dbus.MakeVariant("a.b"),
		}},
		"return":         {Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(uint32(1))}},
		"error org.x.No": {Type: dbus.TypeError, Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(uint32(1)), dbus.FieldErrorName: dbus.MakeVariant("org.x.No")}},
	} {
		// The order of the fields is that of a map.
		for range 20 {
			var b bytes.Buffer
			if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
				t.Fatal(err)
			}
			if got := message(b.Bytes()); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	}
	for _, b := range []string{"", "l", "AUTH EXTERNAL 30\r\n", "l\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x03\x01s\x00\xff\xff\xff\xff"} {
		message([]byte(b))
	}
}
