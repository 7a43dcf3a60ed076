// The agent runs as root in a virtual machine and runs there what the tests outside ask for, see package wire. It needs
// no network, and no program of the machine but those that it is asked to run.
//
//	agent                serve the port
//	agent dial PATH      connect standard input and output to a socket
//	agent import OVERLAY have left4d import standard input, print the job, and stay
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/vm/wire"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "dial":
		err = dial(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "import":
		err = importOverlay(os.Args[2])
	default:
		err = serve("/dev/virtio-ports/" + wire.Port)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "agent: %v\n", err)
		os.Exit(1)
	}
}

func dial(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	go func() {
		io.Copy(conn, os.Stdin)
		conn.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// importOverlay is for streams that have no end, which left4ctl does not take.
func importOverlay(name string) error {
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		return err
	}
	defer conn.Close()
	var job dbus.ObjectPath
	err = conn.Object("me.left4", "/me/left4").Call("me.left4.Manager.ImportOverlay", 0,
		name, dbus.UnixFD(os.Stdin.Fd()), map[string]dbus.Variant{}).Store(&job)
	if err != nil {
		return err
	}
	fmt.Println(job)
	<-conn.Context().Done()
	return nil
}

// agent is what serves one port.
type agent struct {
	conn *wire.Conn

	mu       sync.Mutex
	commands map[uint32]*command
}

// command is one that runs.
type command struct {
	cmd   *exec.Cmd
	input chan []byte // closed at the end of the input
}

// queue is how many chunks of input may wait for a command; then all others wait with it.
const queue = 1024

func serve(path string) error {
	// Not os.OpenFile: the runtime's poller would be told of a port whose other end may not be there yet.
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	port := os.NewFile(uintptr(fd), path)
	a := &agent{conn: wire.New(port), commands: map[uint32]*command{}}
	if err := a.conn.Send(wire.Frame{Kind: wire.Hello}); err != nil {
		return err
	}
	for {
		f, err := a.conn.Receive()
		if err != nil {
			return err
		}
		a.handle(f)
	}
}

func (a *agent) handle(f wire.Frame) {
	if f.Kind == wire.Start {
		a.start(f)
		return
	}
	a.mu.Lock()
	c := a.commands[f.ID]
	a.mu.Unlock()
	if c == nil {
		return
	}
	switch f.Kind {
	case wire.Input:
		c.input <- f.Data
	case wire.InputEnd:
		close(c.input)
	case wire.Kill:
		syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	}
}

func (a *agent) start(f wire.Frame) {
	c := &command{cmd: exec.Command(f.Argv[0], f.Argv[1:]...), input: make(chan []byte, queue)}
	c.cmd.Stdout = wire.Writer{Conn: a.conn, ID: f.ID, Kind: wire.Output}
	c.cmd.Stderr = wire.Writer{Conn: a.conn, ID: f.ID, Kind: wire.Error}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.cmd.WaitDelay = 5 * time.Second // what it left running may hold its output open
	stdin, err := c.cmd.StdinPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		a.conn.Send(wire.Frame{ID: f.ID, Kind: wire.Ended, Code: -1, Data: []byte(err.Error())})
		return
	}
	a.mu.Lock()
	a.commands[f.ID] = c
	a.mu.Unlock()
	go func() {
		for data := range c.input {
			stdin.Write(data) // a command need not read what it is given
		}
		stdin.Close()
	}()
	go func() {
		err := c.cmd.Wait()
		a.mu.Lock()
		delete(a.commands, f.ID)
		a.mu.Unlock()
		end := wire.Frame{ID: f.ID, Kind: wire.Ended, Code: c.cmd.ProcessState.ExitCode()}
		if end.Code < 0 {
			end.Data = []byte(err.Error())
		}
		a.conn.Send(end)
	}()
}
