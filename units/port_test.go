package units

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// freePort is one that is free by UDP and TCP. It lies below those that the kernel gives out by itself, so that nobody takes it meanwhile.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for range 1000 {
		port := uint16(22000 + rand.IntN(4000))
		at := fmt.Sprintf("0.0.0.0:%d", port)
		u, err := net.ListenPacket("udp4", at)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp4", at)
		must(t, u.Close())
		if err == nil {
			must(t, l.Close())
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func TestCheckPort(t *testing.T) {
	local, other := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	for what, c := range map[string]struct {
		network, at string
		addr        netip.Addr
		protocol    string // "": free
	}{
		"free":                         {},
		"free on an address":           {addr: local},
		"UDP everywhere":               {"udp4", "0.0.0.0", netip.Addr{}, "UDP"},
		"TCP everywhere":               {"tcp4", "0.0.0.0", netip.Addr{}, "TCP"},
		"UDP on one address":           {"udp4", "127.0.0.1", netip.Addr{}, "UDP"},
		"TCP on one address":           {"tcp4", "127.0.0.1", netip.Addr{}, "TCP"},
		"UDP everywhere, one asked":    {"udp4", "0.0.0.0", local, "UDP"},
		"TCP everywhere, one asked":    {"tcp4", "0.0.0.0", local, "TCP"},
		"UDP on the address asked":     {"udp4", "127.0.0.1", local, "UDP"},
		"UDP on another address":       {"udp4", "127.0.0.1", other, ""},
		"TCP on another address":       {"tcp4", "127.0.0.1", other, ""},
		"TCP by a program of IPv6 too": {"tcp", "[::]", netip.Addr{}, "TCP"},
	} {
		t.Run(what, func(t *testing.T) {
			port := freePort(t)
			if c.network != "" {
				at := fmt.Sprintf("%s:%d", c.at, port)
				if strings.HasPrefix(c.network, "udp") {
					u, err := net.ListenPacket(c.network, at)
					must(t, err)
					defer u.Close()
				} else {
					l, err := net.Listen(c.network, at)
					must(t, err)
					defer l.Close()
				}
			}
			err := CheckPort(t.Context(), port, c.addr)
			var taken *PortTakenError
			switch {
			case c.protocol == "" && err != nil:
				t.Errorf("a free port: %v", err)
			case c.protocol != "" && (!errors.As(err, &taken) || taken.Protocol != c.protocol || taken.Port != port):
				t.Errorf("got %v, want it taken by %s", err, c.protocol)
			case taken != nil && err.Error() != fmt.Sprintf("port %d is taken by another program (%s)", port, c.protocol):
				t.Errorf("it says %v", err)
			}
		})
	}
	if err := CheckPort(t.Context(), 27015, netip.MustParseAddr("192.0.2.1")); err == nil || err.Error() != "192.0.2.1 is no address of this machine" {
		t.Errorf("a foreign address: %v", err)
	}
}

// A server that was stopped with players' consoles connected leaves connections in TIME_WAIT; the next start must not fail for them.
func TestCheckPortAfterConnections(t *testing.T) {
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	must(t, err)
	client, err := net.Dial("tcp4", l.Addr().String())
	must(t, err)
	conn, err := l.Accept()
	must(t, err)
	must(t, conn.Close()) // the side that closes first waits
	_, _ = client.Read(make([]byte, 1))
	must(t, client.Close())
	must(t, l.Close())
	must(t, CheckPort(t.Context(), uint16(l.Addr().(*net.TCPAddr).Port), netip.Addr{}))
}
