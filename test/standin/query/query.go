// Package query asks a Source game server: Info, Players and Rules by A2S over UDP, Rcon over TCP. It is made for tests
// and demonstrations on one machine; a server that answers nothing may be loading, limiting, muted or gone.
package query

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// DefaultTimeout bounds every call whose context has no deadline.
const DefaultTimeout = 5 * time.Second

// exchange connects to addr, lets talk use the connection until the context ends, and closes it.
func exchange(ctx context.Context, network, addr string, talk func(net.Conn) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	err = talk(conn)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// WaitInfo asks like Info again and again, also while nobody listens at addr, until there is an answer or the context
// ends. Without a deadline in ctx it waits for ever.
func WaitInfo(ctx context.Context, addr string) (ServerInfo, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		info, err := Info(ctx, addr)
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, context.DeadlineExceeded) {
			return info, err
		}
		select {
		case <-ctx.Done():
			return ServerInfo{}, err
		case <-tick.C:
		}
	}
}
