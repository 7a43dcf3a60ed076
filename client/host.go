package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

// Remote is another machine, whose left4d is reached as systemctl -H reaches systemd there: ssh(1) runs
// systemd-stdio-bridge on it, which hands what goes through its pipes to that machine's system bus. Who may do what is
// decided there, for the user that ssh logs in as; polkit has nobody to ask there.
//
// Descriptors do not pass: ImportGame, ImportOverlay and OpenOverlayFile answer ErrNotSupported before they send
// anything.
type Remote struct {
	// Host is [USER@]HOST[:PORT]; HOST is a name, also one of ssh's own configuration, or an address. An IPv6 address
	// stands in brackets where a port follows.
	Host string
	// Stderr gets what ssh itself says, line by line as it comes: warnings, questions to touch a key, why it failed.
	// Where it is nil, the last line is the reason in the error that Dial returns. Passwords ssh asks for on the terminal.
	Stderr io.Writer
	// Batch makes ssh fail where it would have to ask somebody for a password or about the key of a host.
	Batch bool
}

// DialHost is Remote.Dial with what ssh says on standard error. Errors as there.
func DialHost(ctx context.Context, host string) (*Client, error) {
	return Remote{Host: host, Stderr: os.Stderr}.Dial(ctx)
}

// What is taken for a host, a user and an IPv6 address. ssh puts them into commands of its configuration, and a shell
// reads those.
var (
	plainHost = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	plainUser = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.+@-]*$`)
	plainIPv6 = regexp.MustCompile(`^[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?$`)
)

// Command is the command line that runs a program there, without a terminal. The words of the program are quoted for the
// shell that ssh gives them to. Errors: ErrInvalidArgument for a host that is none.
func (r Remote) Command(program ...string) ([]string, error) {
	destination, port, err := r.destination()
	if err != nil {
		return nil, err
	}
	argv := []string{"ssh", "-xT"}
	if r.Batch {
		argv = append(argv, "-oBatchMode=yes")
	}
	if port != "" {
		argv = append(argv, "-p", port)
	}
	argv = append(argv, "--", destination)
	for _, word := range program {
		argv = append(argv, quoted(word))
	}
	return argv, nil
}

// destination splits Host into what ssh takes. Nothing that ssh could take for an option comes through.
func (r Remote) destination() (destination, port string, err error) {
	user, host := "", r.Host
	if at := strings.LastIndexByte(r.Host, '@'); at >= 0 {
		user, host = r.Host[:at+1], r.Host[at+1:]
	}
	inner, rest, bracket := strings.Cut(strings.TrimPrefix(host, "["), "]")
	switch {
	case strings.HasPrefix(host, "["):
		var colon bool
		port, colon = strings.CutPrefix(rest, ":")
		if host = inner; !bracket || rest != "" && !colon || colon && port == "" || !isIPv6(host) {
			return "", "", r.none()
		}
	case !isIPv6(host):
		var colon bool
		if host, port, colon = strings.Cut(host, ":"); colon && port == "" || !plainHost.MatchString(host) {
			return "", "", r.none()
		}
	}
	if user != "" && !plainUser.MatchString(strings.TrimSuffix(user, "@")) {
		return "", "", r.none()
	}
	if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || n == 0) {
		return "", "", r.none()
	}
	return user + host, port, nil
}

func isIPv6(host string) bool {
	address, err := netip.ParseAddr(host)
	return err == nil && address.Is6() && plainIPv6.MatchString(host)
}

func (r Remote) none() error {
	return &Error{ErrInvalidArgument.(*Error).Name, fmt.Sprintf("%q is no host: use [USER@]HOST[:PORT]", r.Host)}
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:=,@+-]+$`)

func quoted(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Dial connects to the system bus of the other machine. It does not start left4d: the first call does.
// ctx bounds the connecting alone; the connection lasts until Close, which ends ssh and waits for its end.
//
// Errors: ErrInvalidArgument for a host that is none; that of ctx; else one that IsUnavailable knows and that says
// "cannot reach HOST: " and why.
func (r Remote) Dial(ctx context.Context) (*Client, error) {
	argv, err := r.Command("systemd-stdio-bridge")
	if err != nil {
		return nil, err
	}
	b, err := startBridge(r, argv)
	if err != nil {
		return nil, r.unreachable(err.Error())
	}
	c := newClient()
	c.bridge = b
	stop := context.AfterFunc(ctx, func() { b.Close() })
	err = c.talk(ctx, b)
	if !stop() {
		c.Close()
		return nil, fmt.Errorf("cannot reach %s: %w", r.Host, ctx.Err())
	}
	if err == nil {
		return c, nil
	}
	c.Close()
	var answered *Error
	if errors.As(err, &answered) && answered.Name != disconnected {
		return nil, fmt.Errorf("cannot listen on the system bus of %s: %w", r.Host, err)
	}
	return nil, r.unreachable(b.reason(err))
}

func (r Remote) unreachable(why string) error {
	return &Error{Name: disconnected, Message: fmt.Sprintf("cannot reach %s: %s", r.Host, why)}
}

// talk begins what there is to say to a bus.
func (c *Client) talk(ctx context.Context, b *bridge) error {
	conn, err := dbus.NewConn(b, dbus.WithSignalHandler(c))
	if err != nil {
		return err
	}
	c.conn = conn
	// The bridge lets in whoever has come that far.
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(""), dbus.AuthAnonymous()}); err != nil {
		return err
	}
	b.let.Store(true)
	if err := conn.Hello(); err != nil {
		return err
	}
	return c.subscribe(ctx)
}

// How long ssh may take to end: of itself when nothing comes from it any more, and when it is told to.
const (
	sshEnds = 2 * time.Second
	sshDies = 3 * time.Second
)

// maxGreeting bounds what may come before the first message, in bytes: some lines of the protocol.
const maxGreeting = 16 << 10

// bridge is a running ssh, as a stream to the bus of another machine.
type bridge struct {
	cmd   *exec.Cmd
	host  string
	in    *os.File // its standard input
	out   *os.File // its standard output
	read  *bufio.Reader
	first []byte // that came from it
	words *words
	ended chan struct{} // closed when it has ended and was waited for
	eof   atomic.Bool   // nothing comes from it any more
	let   atomic.Bool   // the other side has let us in: what comes are messages, which have their bounds
	came  int           // bytes before that
	close sync.Once
	ours  bool // Close has ended it
}

func startBridge(r Remote, argv []string) (*bridge, error) {
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return nil, errors.New("ssh is not installed")
	}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	// With a file of our own at each end, waiting for ssh waits for nothing else: a connection that it leaves in the
	// background for the next time (ControlPersist) may keep its descriptors open.
	pipe := func(ssh int) (ours *os.File, err error) {
		var ends [2]*os.File
		if ends[0], ends[1], err = os.Pipe(); err == nil {
			theirs = append(theirs, ends[ssh])
			ours = ends[1-ssh]
		}
		return ours, err
	}
	b := &bridge{host: r.Host, ended: make(chan struct{})}
	var said *os.File
	if b.in, err = pipe(0); err == nil {
		if b.out, err = pipe(1); err == nil {
			said, err = pipe(1)
		}
	}
	if err == nil {
		b.cmd = &exec.Cmd{Path: program, Args: argv, Stdin: theirs[0], Stdout: theirs[1], Stderr: theirs[2]}
		err = b.cmd.Start()
	}
	if err != nil {
		for _, f := range []*os.File{b.in, b.out, said} {
			f.Close()
		}
		return nil, fmt.Errorf("cannot run ssh: %w", err)
	}
	b.read = bufio.NewReader(b.out)
	b.words = listen(said, r.Stderr)
	go func() {
		b.cmd.Wait()
		close(b.ended)
	}()
	return b, nil
}

func (b *bridge) Read(p []byte) (int, error) {
	n, err := b.read.Read(p)
	if b.first == nil { // which Auth reads, before anybody else can
		b.first = bytes.Clone(p[:n])
	}
	if err != nil {
		b.eof.Store(true)
	}
	if b.came += n; err == nil && b.came > maxGreeting && !b.let.Load() {
		err = errors.New("it says too much before it lets anybody in")
	}
	return n, err
}

func (b *bridge) Write(p []byte) (int, error) { return b.in.Write(p) }

// Close ends ssh and waits for its end.
func (b *bridge) Close() error {
	b.close.Do(func() {
		b.ours = !b.eof.Load()
		b.in.Close()
		if b.ours || !b.ends(sshEnds) {
			b.cmd.Process.Signal(syscall.SIGTERM)
			b.cmd.Process.Signal(syscall.SIGCONT) // it may have been stopped by a read from the terminal
			if !b.ends(sshDies) {
				b.cmd.Process.Kill()
				<-b.ended
			}
		}
		b.out.Close()
		b.words.end()
	})
	return nil
}

func (b *bridge) ends(in time.Duration) bool {
	timer := time.NewTimer(in)
	defer timer.Stop()
	select {
	case <-b.ended:
		return true
	case <-timer.C:
		return false
	}
}

// reason tells why no connection came about; err is what talking to it ended with.
func (b *bridge) reason(err error) string {
	b.Close()
	status := b.cmd.ProcessState.ExitCode()
	switch {
	case len(b.first) > 0 && !bytes.HasPrefix(b.first, []byte("REJECTED ")):
		// A shell's start-up file prints something, or the user has a shell that is none.
		line, _, _ := bytes.Cut(b.first, []byte("\n"))
		return fmt.Sprintf("something else than the bus answers there: %q", bytes.TrimSpace(line[:min(len(line), 200)]))
	case b.ours:
		return strings.TrimPrefix(err.Error(), "dbus: ")
	case b.words.out == nil && b.words.last != "":
		return b.words.last
	case status == 127:
		return "there is no systemd-stdio-bridge on it"
	case status == 255:
		return "ssh failed"
	}
	return "systemd-stdio-bridge ended there: " + b.cmd.ProcessState.String()
}

// lost tells how the connection ended.
func (b *bridge) lost() string {
	b.Close()
	if b.ours {
		return "the connection to " + b.host + " is closed"
	}
	return fmt.Sprintf("the connection to %s is lost: ssh has ended (%v)", b.host, b.cmd.ProcessState)
}

// words are what ssh says on its standard error.
type words struct {
	from *os.File
	out  io.Writer // nil: nobody hears them
	line []byte    // that has not come to its end
	last string    // the last line with anything in it
	done chan struct{}
}

// maxWord bounds a line that has no end.
const maxWord = 4096

func listen(from *os.File, out io.Writer) *words {
	w := &words{from: from, out: out, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		p := make([]byte, 1024)
		for {
			n, err := from.Read(p)
			w.heard(p[:n])
			if err != nil {
				return
			}
		}
	}()
	return w
}

func (w *words) heard(p []byte) {
	for _, c := range p {
		if c != '\n' {
			w.line = append(w.line, c)
		}
		if c == '\n' || len(w.line) == maxWord {
			w.flush()
		}
	}
}

func (w *words) flush() {
	line := bytes.TrimRight(w.line, "\r")
	w.line = nil
	if text := strings.TrimSpace(string(line)); text != "" {
		w.last = text
	}
	if w.out != nil {
		w.out.Write(append(line, '\n'))
	}
}

// end takes what ssh, which has ended, has said so far. Whoever else holds the other end of the pipe is not waited for.
func (w *words) end() {
	w.from.SetReadDeadline(time.Unix(1, 0))
	<-w.done
	if raw, err := w.from.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			p := make([]byte, 1024)
			for n := 1; n > 0; {
				n, _ = syscall.Read(int(fd), p) // it does not block
				w.heard(p[:max(n, 0)])
			}
		})
	}
	if len(w.line) > 0 {
		w.flush()
	}
	w.from.Close()
}
