// Package clienttest gives tests of left4's clients a system bus of their own and a left4d that does what the test
// says. It knows the face of left4d only: no systemd, no polkit, no files.
package clienttest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Bus is a private dbus-daemon. It tries to start left4d when it is called and absent, as the system bus does, which
// never succeeds here.
type Bus struct {
	Address string // for DBUS_SYSTEM_BUS_ADDRESS
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:dir=%[1]s</listen>
  <servicedir>%[1]s</servicedir>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

// StartBus starts a bus that ends with the test. Where there is no dbus-daemon, the test is skipped.
func StartBus(t testing.TB) *Bus {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("dbus-daemon is not installed")
	}
	// Not t.TempDir: a socket's path has to be short.
	dir, err := os.MkdirTemp("", "left4bus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	service := "[D-BUS Service]\nName=me.left4\nExec=/bin/false\n"
	if err := os.WriteFile(filepath.Join(dir, "me.left4.service"), []byte(service), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config-file="+config, "--nofork", "--nopidfile", "--print-address")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	// A test that panics or runs out of time cleans up nothing.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		cmd.Wait()
		t.Fatalf("dbus-daemon gave no address: %v: %s", err, &complaints)
	}
	return &Bus{Address: strings.TrimSpace(address)}
}
