package units

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// PortTaken is the exit status of "left4-overlay check-port" where the port is taken.
const PortTaken = 98

// PortTakenError says that a port cannot be had because somebody else has it.
type PortTakenError struct {
	Port     uint16
	Protocol string // UDP or TCP
}

func (e *PortTakenError) Error() string {
	return fmt.Sprintf("port %d is taken by another program (%s)", e.Port, e.Protocol)
}

// CheckPort tries to get what a game server needs: port (1 to 65535) by UDP and by TCP on addr, or on all IPv4 addresses if addr is the
// zero Addr. It returns a *PortTakenError when another program has either. It keeps neither.
func CheckPort(ctx context.Context, port uint16, addr netip.Addr) error {
	version := "4"
	if !addr.IsValid() {
		addr = netip.IPv4Unspecified()
	} else if addr.Is6() && !addr.Is4In6() {
		version = "6"
	}
	at := netip.AddrPortFrom(addr, port).String()
	// The plain socket options of package net are right for both: a listening TCP socket collides with any other, but not with
	// connections that the server before this one left in TIME_WAIT; a UDP socket collides with any other.
	var l net.ListenConfig
	udp, err := l.ListenPacket(ctx, "udp"+version, at)
	if err == nil {
		defer udp.Close()
		var tcp net.Listener
		if tcp, err = l.Listen(ctx, "tcp"+version, at); err == nil {
			return tcp.Close()
		}
	}
	var op *net.OpError
	switch {
	case errors.Is(err, unix.EADDRINUSE) && errors.As(err, &op):
		return &PortTakenError{port, strings.ToUpper(op.Net[:3])}
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%s is no address of this machine", addr)
	}
	return err
}
