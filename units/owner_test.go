package units

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The look at a port begins as root, in no sandbox.
func TestRootIsGivenUpForGood(t *testing.T) {
	const child = "LEFT4_TEST_BECOME"
	if os.Geteuid() != 0 {
		t.Skip("only root has something to give up")
	}
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	l := Layout{User: "nobody"}
	uid, gid, err := l.Owner()
	noError(t, err)
	noError(t, l.Become())
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	groups, err := os.Getgroups()
	if err != nil || ruid != uid || euid != uid || suid != uid || rgid != gid || egid != gid || sgid != gid || len(groups) != 0 {
		t.Errorf("users %d %d %d, groups %d %d %d and %v, %v", ruid, euid, suid, rgid, egid, sgid, groups, err)
	}
	if syscall.Setresuid(0, 0, 0) == nil || syscall.Setresgid(0, 0, 0) == nil {
		t.Error("it can be root again")
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil || !strings.Contains(string(status), "\nCapEff:\t0000000000000000\n") || !strings.Contains(string(status), "\nCapPrm:\t0000000000000000\n") {
		t.Errorf("%v\n%s", err, status)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable == 1 {
		t.Errorf("servers of the same user can look into it: %d, %v", dumpable, err)
	}
}
