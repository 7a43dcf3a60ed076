package units

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"

	"github.com/godbus/dbus/v5"
)

// maxUnasked bounds a message that nobody here has asked for, in bytes. systemd's signals have some kilobytes.
const maxUnasked = 64 << 10

// boundedConn passes on what the bus sends but for large signals and calls. Any local user can send such to one
// connection, and godbus unpacks a message, to some 30 times its size, before anybody can look at who sent it. Answers
// come only to what was asked: the bus sees to that.
//
// It also makes one system call of the many small reads by which godbus decodes a message. Being no socket to godbus,
// it is not asked to pass descriptors either: the kernel drops any that a read(2) meets.
type boundedConn struct {
	net.Conn
	r    *bufio.Reader
	rest int // bytes of the message that is being passed on
}

func newBoundedConn(conn net.Conn) *boundedConn {
	return &boundedConn{Conn: conn, r: bufio.NewReaderSize(conn, 32<<10)}
}

// Read implements net.Conn.
func (c *boundedConn) Read(b []byte) (int, error) {
	for c.rest == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n, err := c.r.Read(b[:min(len(b), c.rest)])
	c.rest -= n
	return n, err
}

// next finds out how much to pass on. The header's first 16 bytes are those of the D-Bus specification, "Message
// Format"; what comes before the first message are lines of text, none of which begins as a message does.
func (c *boundedConn) next() error {
	first, err := c.r.Peek(1)
	if err != nil {
		return err
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch first[0] {
	case 'l':
	case 'B':
		order = binary.BigEndian
	default:
		c.rest = 1
		return nil
	}
	fixed, err := c.r.Peek(16)
	if err != nil {
		return err
	}
	body, fields := int(order.Uint32(fixed[4:])), int(order.Uint32(fixed[12:]))
	if body > 1<<27 || fields > 1<<26 {
		return errors.New("the bus sent a message that is none")
	}
	size := 16 + (fields+7)&^7 + body
	kind := dbus.Type(fixed[1])
	if size > maxUnasked && kind != dbus.TypeMethodReply && kind != dbus.TypeError {
		_, err := c.r.Discard(size)
		return err
	}
	c.rest = size
	return nil
}
