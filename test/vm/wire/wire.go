// Package wire is what the tests and the agent in a virtual machine say to each other over one virtio port: frames of
// many commands at once, each way in the order in which they were sent.
package wire

import (
	"encoding/gob"
	"io"
	"sync"
)

// Port is the name of the virtio port, as udev gives it below /dev/virtio-ports.
const Port = "left4.vm"

// A Kind is what a frame is about.
type Kind byte

const (
	Hello    Kind = iota // from the agent: it is there
	Start                // to the agent: run Argv
	Input                // to the agent: Data for standard input
	InputEnd             // to the agent: there is no more
	Kill                 // to the agent: end it
	Output               // from the agent: Data of standard output
	Error                // from the agent: Data of standard error
	Ended                // from the agent: with the status Code, or, if Data says why, by something else
)

// A Frame is one message about one command.
type Frame struct {
	ID   uint32
	Kind Kind
	Argv []string
	Data []byte
	Code int
}

// Chunk is how much of a stream goes into one frame.
const Chunk = 64 << 10

// A Conn sends and receives frames; several goroutines may send.
type Conn struct {
	mu  sync.Mutex
	enc *gob.Encoder
	dec *gob.Decoder
}

func New(rw io.ReadWriter) *Conn {
	return &Conn{enc: gob.NewEncoder(rw), dec: gob.NewDecoder(rw)}
}

func (c *Conn) Send(f Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.enc.Encode(f)
}

func (c *Conn) Receive() (f Frame, err error) {
	err = c.dec.Decode(&f)
	return f, err
}

// A Writer sends what is written to it as frames of one kind.
type Writer struct {
	Conn *Conn
	ID   uint32
	Kind Kind
}

func (w Writer) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		piece := b[n:min(len(b), n+Chunk)]
		err = w.Conn.Send(Frame{ID: w.ID, Kind: w.Kind, Data: piece})
		n += len(piece)
	}
	return n, err
}
