package dbus

import (
	"bytes"
	"errors"
	"io"
	"net"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// input takes messages off the bus's socket. One look at the socket brings as many as there are, into a buffer that is used
// again and again: who floods left4d costs it a system call for some hundred messages, and no memory.
//
// It may read on into the messages behind, for descriptors are a barrier (unix(7)): what is read at once ends, at the latest,
// with the bytes that they were sent with. A bus sends each message by itself and its descriptors with its first byte, so
// they are those of the message that the last byte of their read belongs to.
type input struct {
	socket *net.UnixConn
	buffer []byte
	r, w   int    // what of it has been read and not been taken
	at     int64  // of the first of these bytes, counted from the first of all
	end    int64  // behind the message that next has returned
	marks  []mark // in their order
	oob    []byte // more than the 253 descriptors that the kernel lets one message carry
	known  words
}

// mark is a read that brought descriptors.
type mark struct {
	end  int64 // behind its last byte
	fds  []int
	lost bool // of some: this process has as many open as it may
}

// incoming is a message with what came along.
type incoming struct {
	header
	raw  []byte // the whole message; nil before it is taken, and where it is too large
	fds  []int  // owned by whoever has taken the message
	lost bool   // some of its descriptors found no place in this process
	size int    // on the wire
}

func newInput(socket *net.UnixConn) input {
	// A header that is looked at fits.
	return input{socket: socket, buffer: make([]byte, 2*maxFields), oob: make([]byte, 4096)}
}

// next passes over what nobody has taken of the message before, and returns the header of the next one. What is wrong with
// one message alone is no error: any user can send it. A message whose header is too large or not understood comes back
// without a kind.
func (in *input) next() (m incoming, err error) {
	if err := in.pass(); err != nil {
		return m, err
	}
	if err := in.fill(fixedHeader); err != nil {
		return m, err
	}
	h, padded, err := parseFixed(in.buffer[in.r:])
	if err != nil {
		return m, err // where the next message begins is not known any more
	}
	m.size = fixedHeader + int(padded) + int(h.body)
	in.end = in.at + int64(m.size)
	if padded > maxFields {
		return m, nil
	}
	if err := in.fill(fixedHeader + int(padded)); err != nil {
		return m, err
	}
	fields := in.buffer[in.r+fixedHeader : in.r+fixedHeader+int(padded)]
	if h.parseFields(fields, h.order.Uint32(in.buffer[in.r+12:]), in.known) == nil {
		m.header = h
	}
	return m, nil
}

// held is how many bytes a message has in memory when it is taken.
func (m *incoming) held() int {
	if m.header.body > maxCall {
		return 0
	}
	return m.size
}

// take reads the rest of the message that next has returned. One that is too large is passed over.
func (in *input) take(m *incoming) error {
	if m.held() == 0 {
		return nil
	}
	m.raw = make([]byte, m.size)
	n := copy(m.raw, in.buffer[in.r:in.w])
	in.drop(n)
	for n < len(m.raw) {
		got, err := in.read(m.raw[n:])
		in.at += int64(got)
		if err != nil {
			return err
		}
		n += got
	}
	for len(in.marks) > 0 && in.marks[0].end <= in.end {
		m.fds = append(m.fds, in.marks[0].fds...)
		m.lost = m.lost || in.marks[0].lost
		in.marks = in.marks[1:]
	}
	// Whose they are is certain by now, and the header says how many there must be.
	m.lost = m.lost || len(m.fds) != int(m.header.fds)
	return nil
}

// pass drops the rest of a message that nobody has taken.
func (in *input) pass() error {
	in.drop(int(min(in.end-in.at, int64(in.w-in.r))))
	for in.at < in.end {
		n, err := in.read(in.buffer[:min(in.end-in.at, int64(len(in.buffer)))])
		in.at += int64(n)
		if err != nil {
			return err
		}
	}
	for len(in.marks) > 0 && in.marks[0].end <= in.end {
		closeAll(in.marks[0].fds)
		in.marks = in.marks[1:]
	}
	return nil
}

// drop takes bytes out of the buffer.
func (in *input) drop(n int) {
	in.r += n
	in.at += int64(n)
	if in.r == in.w {
		in.r, in.w = 0, 0
	}
}

// fill reads until so many bytes are in the buffer.
func (in *input) fill(n int) error {
	if in.r+n > len(in.buffer) {
		in.w = copy(in.buffer, in.buffer[in.r:in.w])
		in.r = 0
	}
	for in.w-in.r < n {
		got, err := in.read(in.buffer[in.w:])
		in.w += got
		if err != nil {
			return err
		}
	}
	return nil
}

// read reads what there is, up to len(b); the bytes in the buffer must be all that is before them.
func (in *input) read(b []byte) (int, error) {
	n, oobn, flags, _, err := in.socket.ReadMsgUnix(b, in.oob)
	if oobn > 0 || flags&unix.MSG_CTRUNC != 0 {
		// Whatever else goes wrong, what has arrived is ours to close.
		m := mark{end: in.at + int64(in.w-in.r) + int64(max(n, 0)), lost: flags&unix.MSG_CTRUNC != 0}
		if messages, err := unix.ParseSocketControlMessage(in.oob[:oobn]); err == nil {
			for _, message := range messages {
				if got, err := unix.ParseUnixRights(&message); err == nil {
					m.fds = append(m.fds, got...)
				}
			}
		}
		in.marks = append(in.marks, m)
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	return max(n, 0), err
}

// close closes what has come along with messages that nobody will take.
func (in *input) close() {
	for _, m := range in.marks {
		closeAll(m.fds)
	}
	in.marks = nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func (m *incoming) closeFDs() {
	closeAll(m.fds)
	m.fds = nil
}

// body decodes the arguments.
func (m *incoming) body() ([]any, error) {
	if m.raw == nil {
		return nil, errors.New("the message is too large")
	}
	if err := scan(m.signature, m.raw[len(m.raw)-int(m.header.body):], m.order); err != nil {
		return nil, err
	}
	msg, err := dbus.DecodeMessageWithFDs(bytes.NewReader(m.raw), m.fds)
	if err != nil {
		return nil, err
	}
	return msg.Body, nil
}
