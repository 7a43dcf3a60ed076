package units

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestTakenPorts(t *testing.T) {
	const (
		head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
		rest = " 00000000:00000000 00:00000000 00000000 "
	)
	line := func(local, state string, uid int) string {
		return fmt.Sprintf("   0: %s 00000000:0000 %s%s%d 0 123 2 0000000000000000 0\n", local, state, rest, uid)
	}
	// 27015 is 0x6987. Addresses are printed in the order of the bytes of this machine, which is taken for a little endian one.
	const (
		any4, local4, other4 = "00000000:6987", "0100007F:6987", "0200007F:6987"
		any6, local6         = "00000000000000000000000000000000:6987", "00000000000000000000000001000000:6987"
		mapped               = "0000000000000000FFFF00000100007F:6987"
	)
	home, six := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	for name, c := range map[string]struct {
		file, text string
		addr       netip.Addr
		want       string // "" = nobody has it
	}{
		"all addresses":                  {"udp", line(any4, "07", 33), netip.Addr{}, "{27015 UDP 33}"},
		"one of all":                     {"udp", line(local4, "07", 0), netip.Addr{}, "{27015 UDP 0}"},
		"all, of which one is wanted":    {"udp", line(any4, "07", 0), home, "{27015 UDP 0}"},
		"the same one":                   {"tcp", line(local4, "0A", 5), home, "{27015 TCP 5}"},
		"another one":                    {"tcp", line(other4, "0A", 5), home, ""},
		"a connection":                   {"tcp", line(local4, "01", 5), home, ""},
		"another port":                   {"udp", line("00000000:6988", "07", 0), netip.Addr{}, ""},
		"all of IPv6, and so IPv4":       {"udp6", line(any6, "07", 0), netip.Addr{}, "{27015 UDP 0}"},
		"one of IPv6":                    {"udp6", line(local6, "07", 0), netip.Addr{}, ""},
		"one of IPv6 that is wanted":     {"udp6", line(local6, "07", 0), six, "{27015 UDP 0}"},
		"IPv4 where IPv6 is wanted":      {"udp", line(any4, "07", 0), six, ""},
		"IPv4 in words of IPv6":          {"tcp6", line(mapped, "0A", 0), netip.Addr{}, "{27015 TCP 0}"},
		"what is no socket":              {"udp", "0: x:6987 y 07" + rest + "0 0 1\n0: 0000000:6987 0 07" + rest + "0\n\n0:\n", netip.Addr{}, ""},
		"a kernel without IPv6, and TCP": {"udp", "", netip.Addr{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, file := range []string{"udp", "tcp", c.file} {
				text := head
				if file == c.file {
					text += c.text
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			all, err := takenPorts(dir, []Address{{Port: 27015, Addr: c.addr}})
			got := ""
			for _, one := range all {
				got += fmt.Sprint(one)
			}
			if err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
	if _, err := takenPorts(t.TempDir(), nil); err == nil {
		t.Error("no tables, and no error")
	}
}

// The kernel's own tables: what is listened on is taken, by whom it is.
func TestATakenPortIsSeen(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	want := Taken{port, "TCP", uint32(os.Getuid())}
	ask := []Address{{Port: port, Addr: netip.MustParseAddr("127.0.0.1")}}
	if all, err := takenPorts("/proc/self/net", ask); err != nil || !slices.Contains(all, want) {
		t.Errorf("got %v, %v; want %v", all, err, want)
	}
	l.Close()
	if all, err := takenPorts("/proc/self/net", ask); err != nil || slices.Contains(all, want) {
		t.Errorf("got %v, %v", all, err)
	}
}

func TestTryOverlay(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	eachAPI(t, func(t *testing.T, m Mounter) {
		mkdir(t, m.Layout.State+"/runtime")
		must(t, m.TryOverlay())
		// An overlay cannot hold the upper directory of another one.
		m.write(t, planA, nil)
		must(t, m.Mount("x"))
		over := Mounter{Layout: Layout{State: m.Layout.State + "/runtime/x/merged"}, api: m.api}
		if err := over.TryOverlay(); err == nil {
			t.Error("there is no directory, and no error")
		}
		mkdir(t, over.Layout.State+"/runtime")
		if err := over.TryOverlay(); err == nil {
			t.Error("an overlay over an overlay, and no error")
		} else {
			t.Log(err)
		}
		for _, dir := range []string{m.Layout.State, over.Layout.State} {
			left, err := filepath.Glob(dir + "/runtime/.left4-*")
			if err != nil || len(left) != 0 {
				t.Errorf("it left %v, %v", left, err)
			}
		}
	})
}
