package units

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Probe is a question about the machine: left4d has neither its network nor CAP_SYS_ADMIN, so left4-overlay gives the
// answer, in a unit of its own.
type Probe struct {
	Ports []Address // that are to be free
}

// Address is what a server listens on: a port, on one address of the machine or on all of IPv4 (the zero Addr).
type Address struct {
	Port uint16
	Addr netip.Addr
}

// Probed answers a Probe.
type Probed struct {
	// Overlay is why the files of a server cannot be mounted or changed; "" = they can.
	Overlay string
	Taken   []Taken
	// Firewall is why IPAddressDeny= of a unit does not hold; "" = it does. systemd itself says nothing where it cannot make it hold.
	Firewall string
	// Version and Worker are those of left4-overlay and of the left4-worker beside it; what is no version is why there is none.
	Version, Worker string
	Error           string // "" = none
}

// Taken is an Address that a program has.
type Taken struct {
	Port     uint16
	Protocol string // UDP or TCP
	UID      uint32 // whose program
}

const (
	probeTimeout = time.Minute
	// maxSockets bounds what is read of each table of sockets, in bytes: 100 000 of them.
	maxSockets = 16 << 20
)

// AnswerProbe reads a question as JSON and writes the answer: left4-overlay's side of Systemd.Probe.
func (m Mounter) AnswerProbe(ctx context.Context, version string, in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(io.LimitReader(in, maxInspection))
	if err != nil {
		return err
	}
	var q Probe
	if err := json.Unmarshal(text, &q); err != nil {
		return err
	}
	a := Probed{Version: version, Worker: workerVersion(ctx)}
	if err := m.TryOverlay(); err != nil {
		a.Overlay = err.Error()
	}
	if err := reach(denied); err == nil {
		a.Firewall = "a packet to an address that is denied was sent; the kernel keeps BPF programs from systemd"
	} else if !errors.Is(err, unix.EPERM) {
		a.Firewall = err.Error()
	}
	// Not by trying to have them: a server that starts at this moment would find its port taken.
	if a.Taken, err = takenPorts("/proc/self/net", q.Ports); err != nil {
		a.Error = err.Error()
	}
	return json.NewEncoder(out).Encode(a)
}

// workerVersion asks the worker that lies beside this program.
func workerVersion(ctx context.Context) string {
	self, err := os.Executable()
	if err != nil {
		return err.Error()
	}
	out, err := exec.CommandContext(ctx, filepath.Join(filepath.Dir(self), "left4-worker"), "--version").Output()
	if err != nil {
		return err.Error()
	}
	_, version, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	return version
}

// TryOverlay mounts an overlay as servers have it, below the directory where theirs are, changes in it what a server may change, and
// takes it away again.
func (m Mounter) TryOverlay() (err error) {
	var fds descriptors
	defer fds.close()
	state, err := fds.keep(openAbs(m.Layout.State))
	if err != nil {
		return err
	}
	runtimes, err := fds.keep(OpenBeneath(state, runtimeDir, unix.O_RDONLY|unix.O_DIRECTORY, 0))
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%sprobe-%d", tempPrefix, os.Getpid())
	dir := filepath.Join(m.Layout.State, runtimeDir, name)
	for _, sub := range []string{lowerName + "/d/e", upperName, workName, mergedName} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, RemoveTree(runtimes, name)) }()
	l := layers{name: name, state: state, lower: []string{runtimeDir + "/" + name + "/" + lowerName}}
	for _, sub := range []struct {
		name string
		to   *int
	}{{upperName, &l.upper}, {workName, &l.work}, {mergedName, &l.merged}} {
		if *sub.to, err = fds.keep(OpenBeneath(runtimes, name+"/"+sub.name, unix.O_RDONLY|unix.O_DIRECTORY, 0)); err != nil {
			return err
		}
	}
	lower, err := fds.keep(OpenBeneath(state, l.lower[0], unix.O_RDONLY|unix.O_DIRECTORY, 0))
	if err != nil {
		return err
	}
	l.lowers = []int{lower}
	if err := m.attach(l); err != nil {
		return fmt.Errorf("cannot mount an overlay: %w", err)
	}
	merged := filepath.Join(dir, mergedName)
	defer func() { err = errors.Join(unix.Unmount(merged, unix.UMOUNT_NOFOLLOW), err) }()
	// A file system that cannot keep what stands for a file that was removed, or for a directory that was made anew, is told of here.
	d := filepath.Join(merged, "d")
	if err := errors.Join(os.RemoveAll(d), os.Mkdir(d, 0o700), os.WriteFile(filepath.Join(d, "f"), nil, 0o600)); err != nil {
		return fmt.Errorf("the file system cannot hold what servers change: %w", err)
	}
	if names, err := os.ReadDir(d); err != nil || len(names) != 1 {
		return errors.New("the file system cannot hold what servers change: what was removed came back")
	}
	return nil
}

const lowerName = "lower"

// denied is an address that the unit of a probe may not send to.
const denied = "127.0.0.1"

// reach sends a packet to nobody.
func reach(address string) error {
	conn, err := net.Dial("udp4", address+":9") // discard
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte{0})
	return err
}

// takenPorts looks through the kernel's tables in dir, see proc_pid_net(5).
func takenPorts(dir string, ports []Address) (all []Taken, err error) {
	for _, protocol := range []string{"UDP", "TCP"} {
		for _, version := range []string{"", "6"} {
			f, err := os.Open(filepath.Join(dir, strings.ToLower(protocol)+version))
			if errors.Is(err, os.ErrNotExist) && version == "6" {
				continue // a kernel without IPv6
			}
			if err != nil {
				return nil, err
			}
			text, err := io.ReadAll(io.LimitReader(f, maxSockets))
			f.Close()
			if err != nil {
				return nil, err
			}
			for line := range strings.Lines(string(text)) {
				s, ok := parseSocket(line)
				if !ok || protocol == "TCP" && s.state != listening {
					continue
				}
				for _, p := range ports {
					if s.collides(p) {
						all = append(all, Taken{p.Port, protocol, s.uid})
					}
				}
			}
		}
	}
	return all, nil
}

// socket is a line of a table of sockets.
type socket struct {
	local netip.AddrPort
	state string
	uid   uint32
}

const listening = "0A"

// parseSocket reads "0: 0100007F:6987 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 …". An address is printed in words of
// 32 bits, each in the order of the machine.
func parseSocket(line string) (s socket, ok bool) {
	f := strings.Fields(line)
	if len(f) < 8 {
		return s, false
	}
	hex, port, _ := strings.Cut(f[1], ":")
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil || len(hex) != 8 && len(hex) != 32 {
		return s, false
	}
	var words []byte
	for ; hex != ""; hex = hex[8:] {
		word, err := strconv.ParseUint(hex[:8], 16, 32)
		if err != nil {
			return s, false
		}
		words = binary.NativeEndian.AppendUint32(words, uint32(word))
	}
	addr, _ := netip.AddrFromSlice(words)
	uid, err := strconv.ParseUint(f[7], 10, 32)
	return socket{netip.AddrPortFrom(addr.Unmap(), uint16(number)), f[3], uint32(uid)}, err == nil
}

// collides tells whether a server that wants p would be in the way of the socket. One on all of IPv6 has IPv4 too, as a rule.
func (s socket) collides(p Address) bool {
	if s.local.Port() != p.Port {
		return false
	}
	have, want := s.local.Addr(), p.Addr.Unmap()
	if have.IsUnspecified() || have == want {
		return have.Is6() || !want.Is6()
	}
	return (!want.IsValid() || want.IsUnspecified()) && (have.Is4() || want.Is6())
}

// Probe has program, which is left4-overlay, answer a question about the machine.
func (s *Systemd) Probe(ctx context.Context, program string, q Probe) (a Probed, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	question, err := json.Marshal(q)
	if err == nil {
		unit := fmt.Sprintf("left4-probe-%d-%d.service", os.Getpid(), inspections.Add(1))
		err = s.ask(ctx, unit, probeProperties(program), question, workerStopTimeout, func(answer *json.Decoder) error {
			return answer.Decode(&a)
		})
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return Probed{}, fmt.Errorf("cannot look at the machine: %w", err)
	}
	return a, nil
}

// probeProperties are those of a process that may mount as left4-overlay@.service does, but in a namespace of its own, and sees the
// network of the machine.
func probeProperties(program string) []property {
	list := overlayProperties(program, "probe")
	set := func(name string, value any) { list = append(list, property{name, dbus.MakeVariant(value)}) }
	set("Description", "left4: a look at the machine")
	set("TimeoutStartUSec", uint64(probeTimeout.Microseconds()))
	set("CapabilityBoundingSet", uint64(1<<unix.CAP_SYS_ADMIN|1<<unix.CAP_CHOWN|1<<unix.CAP_DAC_OVERRIDE|1<<unix.CAP_FOWNER|1<<unix.CAP_FSETID))
	set("PrivateNetwork", false)
	set("RestrictAddressFamilies", allowList{true, []string{"AF_INET"}})
	set("IPAddressDeny", prefixes([]string{denied + "/32"}))
	set("ReadWritePaths", []string{stateDir + "/" + runtimeDir})
	set("SystemCallFilter", allowList{true, []string{"@mount"}})
	return list
}
