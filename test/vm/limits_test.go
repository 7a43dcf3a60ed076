package vm

import (
	"strings"
	"testing"
)

// cgroup is a file of a server's control group, "" where nothing in it is limited by that controller.
func (p play) cgroup(name, file string) string {
	p.t.Helper()
	return strings.TrimSpace(p.Try("cat", "/sys/fs/cgroup"+p.show(unit(name), "ControlGroup")+"/"+file).Out)
}

// What is configured is what the kernel enforces, at once and after a boot.
func TestTheKernelEnforcesTheLimits(t *testing.T) {
	eachPlay(t, func(t *testing.T, p play) {
		p.ctl("create", "a", "--limit=MemoryMax=512M", "--limit=CPUQuota=150%")
		p.ctl("start", "a")
		p.ready(27015)
		process := p.process(unit("a"))
		// A Debian as it is installed has all that left4 needs.
		if r := p.Try("left4ctl", "doctor"); r.Code != 0 || r.Out != "" {
			t.Errorf("%s: the doctor says, exit status %d:\n%s%s", p.Suite, r.Code, r.Out, r.Err)
		}
		wants := func(when string, files map[string]string) {
			t.Helper()
			for file, want := range files {
				p.expect(when+": "+file, p.cgroup("a", file), want)
			}
		}
		wants("at the start", map[string]string{
			"memory.max": "536870912", "memory.high": "1610612736", "cpu.max": "150000 100000", "pids.max": "256",
		})
		for _, c := range []struct {
			setting string
			files   map[string]string
		}{
			{"MemoryMax=700M", map[string]string{"memory.max": "734003200"}},
			{"MemoryHigh=600M", map[string]string{"memory.high": "629145600", "memory.max": "734003200"}},
			{"CPUQuota=50%", map[string]string{"cpu.max": "50000 100000"}},
			{"TasksMax=100", map[string]string{"pids.max": "100"}},
			{"AllowedCPUs=1", map[string]string{"cpuset.cpus": "1", "cpuset.cpus.effective": "1"}},
		} {
			p.ctl("configure", "a", c.setting)
			wants(c.setting, c.files)
		}
		threads := p.Run(t, "sh", "-c", `grep -h Cpus_allowed_list /proc/"$1"/task/*/status | sort -u`, "sh", p.show(unit("a"), "MainPID"))
		p.expect("where its threads may run", threads, "Cpus_allowed_list:\t1")
		p.rcon("a", 27015, "standin spam 20000")
		if stat := p.cgroup("a", "cpu.stat"); strings.Contains(stat, "nr_throttled 0\n") {
			t.Errorf("%s: a busy server is not throttled:\n%s", p.Suite, stat)
		}
		p.ready(27015)
		p.expect("PendingRestart", p.get("a", "PendingRestart"), "false")
		p.expect("the process", p.process(unit("a")), process)

		// Once more what they are without them, all but one.
		p.ctl("configure", "a", "MemoryMax=", "MemoryHigh=", "CPUQuota=", "AllowedCPUs=")
		without := map[string]string{
			"memory.max": "2147483648", "memory.high": "1610612736", "cpu.max": "", "pids.max": "100", "cpuset.cpus": "",
		}
		wants("without", without)
		p.expect("the process", p.process(unit("a")), process)
		p.ctl("configure", "a", "AllowedCPUs=0", "MemoryMax=infinity", "MemoryHigh=infinity")
		without["cpuset.cpus"], without["memory.max"], without["memory.high"] = "0", "max", "max"
		wants("without bounds", without)
		p.expect("the process", p.process(unit("a")), process)
		p.Reboot(t)
		p.ready(27015)
		wants("after a boot", without)
	})
}
