package dbus

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"left4.me/left4/dbus/names"
)

// conn is left4d's own end of the system bus, the only one that others may call.
//
// godbus encodes and decodes the bodies, but its receiving side is not used: it starts a goroutine for each call
// without a bound, decodes before anybody has looked at the size, keeps the descriptors of whatever nobody asked for,
// and answers some calls before a handler sees them. Any local user can send here, so each message is bounded and
// owned from its first byte.
type conn struct {
	socket *net.UnixConn
	name   string // the unique name
	in     input

	mu      sync.Mutex
	serial  uint32
	pending map[uint32]chan<- incoming
	queue   []outgoing
	last    []outgoing // refusals, which leave when nothing else waits
	queued  int        // bytes
	closed  bool       // nothing is queued any more
	wake    chan struct{}

	done chan struct{}
	err  error // why done was closed
	once sync.Once
}

// outgoing is an encoded message with the files whose descriptors go along. It owns them.
type outgoing struct {
	raw     []byte
	files   []*os.File
	instead []byte // what goes out if the kernel does not pass the descriptors
	left    func() // called once, when it has been handed to the kernel or never will be
}

func (m *outgoing) close() {
	for _, f := range m.files {
		f.Close()
	}
	m.files = nil
	if m.left != nil {
		m.left()
		m.left = nil
	}
}

// Bounds of a connection. The largest honest call is a definition: 1000 lines of 511 bytes and 256 arguments.
const (
	maxCall    = 1 << 20
	maxReply   = 32 << 20 // a bus ends the connection of who sends more
	maxQueue   = 64 << 20 // bytes that wait for a bus that does not read
	sendBuffer = 8 << 10
	maxFields  = 64 << 10 // an object path has no limit of its own
)

// dial connects to the system bus, with the passing of descriptors, and says hello.
func dial(ctx context.Context) (*conn, error) {
	address := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	if address == "" {
		address = "unix:path=/run/dbus/system_bus_socket"
	}
	path, err := socketPath(address)
	if err != nil {
		return nil, err
	}
	socket, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	// What lies in the socket leaves before all that is queued later, and dbus-daemon takes 2 KiB of it at a time.
	if err := socket.(*net.UnixConn).SetWriteBuffer(sendBuffer); err != nil {
		socket.Close()
		return nil, err
	}
	c := &conn{
		socket: socket.(*net.UnixConn), in: newInput(socket.(*net.UnixConn)), pending: map[uint32]chan<- incoming{},
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	if err := c.authenticate(); err != nil {
		socket.Close()
		return nil, fmt.Errorf("the bus does not let us in: %w", err)
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return c, nil
}

// socketPath takes the first unix address of a list; "@" marks an abstract one.
func socketPath(addresses string) (string, error) {
	for _, address := range strings.Split(addresses, ";") {
		rest, ok := strings.CutPrefix(address, "unix:")
		if !ok {
			continue
		}
		for _, pair := range strings.Split(rest, ",") {
			key, value, _ := strings.Cut(pair, "=")
			value, err := url.PathUnescape(value)
			if err != nil {
				return "", fmt.Errorf("the bus address %q is not understood", addresses)
			}
			switch key {
			case "path":
				return value, nil
			case "abstract":
				return "@" + value, nil
			}
		}
	}
	return "", fmt.Errorf("the bus address %q names no unix socket", addresses)
}

// authenticate speaks the D-Bus specification's "Authentication Protocol" with EXTERNAL.
func (c *conn) authenticate() error {
	uid := hex.EncodeToString([]byte(strconv.Itoa(os.Getuid())))
	// The server sends nothing of its own before Hello, so the reader can take no byte that belongs to a message.
	r := bufio.NewReader(c.socket)
	for _, step := range []struct{ send, want string }{
		{"\x00AUTH EXTERNAL " + uid + "\r\n", "OK "},
		{"NEGOTIATE_UNIX_FD\r\n", "AGREE_UNIX_FD"},
	} {
		if _, err := io.WriteString(c.socket, step.send); err != nil {
			return err
		}
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, step.want) {
			return fmt.Errorf("it answered %q", strings.TrimSpace(line))
		}
	}
	_, err := io.WriteString(c.socket, "BEGIN\r\n")
	return err
}

// run reads until the connection ends. deliver gets all that is no answer to a call of ours: the header alone, for most of
// a flood is not worth more. It takes what it wants of the rest, and what it returns ends the connection.
func (c *conn) run(deliver func(*incoming) error) {
	go c.write()
	for {
		m, err := c.in.next()
		// Only the bus itself is ever called over this connection; nobody else can answer for it.
		answer := m.kind == dbus.TypeMethodReply || m.kind == dbus.TypeError
		switch {
		case err != nil:
		case !answer:
			err = deliver(&m)
		case m.sender == names.Bus:
			if err = c.in.take(&m); err == nil {
				m.closeFDs()
				c.answer(m)
			}
		}
		if err != nil {
			c.in.close()
			c.fail(err)
			return
		}
	}
}

func (c *conn) answer(m incoming) {
	c.mu.Lock()
	waiter := c.pending[m.reply]
	delete(c.pending, m.reply)
	c.mu.Unlock()
	if waiter != nil {
		waiter <- m
	}
}

// encode makes a message ready to be sent. A *os.File in the body goes as its descriptor and is owned by the result; it
// is closed where there is none.
func encode(msg *dbus.Message) (m outgoing, err error) {
	body := make([]any, len(msg.Body))
	for i, value := range msg.Body {
		if f, ok := value.(*os.File); ok {
			m.files = append(m.files, f)
			value = dbus.UnixFD(f.Fd())
		}
		body[i] = value
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if len(body) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
	if len(m.files) > 0 {
		msg.Headers[dbus.FieldUnixFDs] = dbus.MakeVariant(uint32(len(m.files)))
	}
	msg.Body = body
	var b bytes.Buffer
	if err := msg.EncodeTo(&b, binary.LittleEndian); err != nil {
		return m, err
	}
	if b.Len() > maxReply {
		return m, dbusError(errLimits, "a message of %d bytes is too large, at most %d are sent", b.Len(), maxReply)
	}
	m.raw = b.Bytes()
	return m, nil
}

// send queues a message; it never blocks. Messages leave in the order of the calls.
func (c *conn) send(msg *dbus.Message) (serial uint32, err error) {
	m, err := encode(msg)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.push(m)
}

// push gives an encoded message its serial, which godbus sets on its own connections only, and queues it.
func (c *conn) push(m outgoing) (uint32, error) {
	if c.closed {
		m.close()
		return 0, net.ErrClosed
	}
	if c.queued+len(m.raw) > maxQueue {
		m.close()
		go c.fail(errors.New("the bus does not read what it is sent"))
		return 0, io.ErrShortWrite
	}
	if c.serial++; c.serial == 0 {
		c.serial++
	}
	binary.LittleEndian.PutUint32(m.raw[8:], c.serial)
	if m.instead != nil {
		binary.LittleEndian.PutUint32(m.instead[8:], c.serial)
	}
	c.queue = append(c.queue, m)
	c.queued += len(m.raw)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return c.serial, nil
}

// sendLast queues a refusal behind all that others wait for. It has no order with anything: nothing came of the call.
func (c *conn) sendLast(m outgoing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.queue)
	if _, err := c.push(m); err == nil {
		c.last = append(c.last, c.queue[n])
		c.queue = c.queue[:n]
	}
}

// crowded tells that so much waits for the bus that a large answer of n bytes is better refused.
func (c *conn) crowded(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queued+n > maxQueue/4 && c.queued > 0
}

func (c *conn) write() {
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
		for batch := c.next(); batch != nil; batch = c.next() {
			if err := c.writeBatch(batch); err != nil {
				c.fail(err)
				return
			}
		}
	}
}

// lastBatch is how many refusals leave at once: about what dbus-daemon reads at once.
const lastBatch = 10

// next takes what is to be written next; nil where nothing waits.
func (c *conn) next() (batch []outgoing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 {
		batch, c.queue = c.queue, nil
		return batch
	}
	n := min(len(c.last), lastBatch)
	if n == 0 {
		c.last = nil
		return nil
	}
	batch, c.last = c.last[:n:n], c.last[n:]
	return batch
}

func (c *conn) writeBatch(batch []outgoing) (err error) {
	defer func() {
		for i := range batch {
			batch[i].close()
		}
	}()
	for i := 0; i < len(batch) && err == nil; {
		var plain net.Buffers
		size := 0
		for ; i < len(batch) && batch[i].files == nil; i++ {
			plain = append(plain, batch[i].raw)
			size += len(batch[i].raw)
		}
		if plain != nil {
			_, err = plain.WriteTo(c.socket)
		} else {
			size = len(batch[i].raw)
			err = c.writeFiles(&batch[i])
			i++
		}
		c.mu.Lock()
		c.queued -= size
		c.mu.Unlock()
	}
	return err
}

// writeFiles sends a message with its descriptors, which leave with its first byte.
func (c *conn) writeFiles(m *outgoing) error {
	fds := make([]int, len(m.files))
	for i, f := range m.files {
		fds[i] = int(f.Fd())
	}
	n, _, err := c.socket.WriteMsgUnix(m.raw, unix.UnixRights(fds...), nil)
	m.close()
	rest := m.raw[max(n, 0):]
	if err != nil {
		// Nothing has left. The kernel passes no more descriptors of a user who has too many on their way.
		rest = m.instead
	}
	if len(rest) > 0 {
		_, err = c.socket.Write(rest)
	}
	return err
}

// flush returns when all that was queued before has been handed to the kernel, or the connection or ctx has ended. The
// bus answers in order, so a round trip shows it.
func (c *conn) flush(ctx context.Context) {
	c.call(ctx, "GetId")
}

// call asks the bus itself and returns the answer's arguments.
func (c *conn) call(ctx context.Context, member string, args ...any) ([]any, error) {
	return c.callBus(ctx, names.Bus, member, args...)
}

func (c *conn) callBus(ctx context.Context, iface, member string, args ...any) ([]any, error) {
	m, err := encode(&dbus.Message{Type: dbus.TypeMethodCall, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(names.Bus),
		dbus.FieldPath:        dbus.MakeVariant(names.BusPath),
		dbus.FieldInterface:   dbus.MakeVariant(iface),
		dbus.FieldMember:      dbus.MakeVariant(member),
	}, Body: args})
	if err != nil {
		return nil, err
	}
	answer := make(chan incoming, 1)
	c.mu.Lock()
	serial, err := c.push(m)
	if err == nil {
		c.pending[serial] = answer
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case m := <-answer:
		body, err := m.body()
		if err != nil {
			return nil, err
		}
		if m.kind == dbus.TypeError {
			return nil, dbus.Error{Name: m.errorName, Body: body}
		}
		return body, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-c.done:
		err = c.err
	}
	c.mu.Lock()
	delete(c.pending, serial)
	c.mu.Unlock()
	return nil, err
}

func (c *conn) fail(err error) {
	c.once.Do(func() {
		if errors.Is(err, io.EOF) {
			err = errors.New("the bus closed the connection")
		}
		c.err = err
		close(c.done)
		c.socket.Close()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.closed = true
		for _, queue := range [][]outgoing{c.queue, c.last} {
			for i := range queue {
				queue[i].close()
			}
		}
	})
}
