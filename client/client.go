// Package client is the Go client of left4d, the service that hosts Left 4 Dead 2 servers on a machine.
//
//	c, err := client.Dial(ctx)
//	if err != nil { … }
//	defer c.Close()
//	job, err := c.StartInstance(ctx, "versus-1", client.JobOptions{})
//	if err != nil { … }
//	_, err = job.Wait(ctx, func(j client.JobInfo) { fmt.Println(j.Status) })
//
// It needs no settings: it speaks to me.left4 on the system bus (or on the bus that DBUS_SYSTEM_BUS_ADDRESS names),
// which starts left4d where it does not run. Who may do what is decided there, by polkit; the package adds no check of
// its own. Methods that change a definition return when it is stored; methods that take time return a Job at once.
// Watch tells all that happens. DialHost does the same with the left4d of another machine, through ssh.
//
// Besides the errors that stand with a method, each may end with that of its context or with one that IsUnavailable
// knows, and ErrQuotaExceeded meets whoever asks too much at once.
//
// The bus interface is version 1 and only grows, so a program that uses this package goes on working with newer
// versions of left4d.
package client

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// Client is one private connection to left4d. Its methods may be called from several goroutines.
//
// Its fields are set before the first call, or left alone.
type Client struct {
	// NoInteraction tells polkit to refuse what it would have to ask a person about, instead of asking. Otherwise a
	// call may take as long as somebody needs to type a password: only its context ends it earlier.
	NoInteraction bool

	// Patience is how long Job.Wait bears that left4d is away, as it is for a moment while it is restarted or
	// upgraded. Dial sets 30 seconds.
	Patience time.Duration

	conn   *dbus.Conn
	bridge *bridge // to the bus of another machine, nil where it is that of this one

	mu         sync.Mutex
	owner      string // unique name of the connection that owns me.left4 now, "" while nobody does
	ownerKnown bool
	watches    map[dbus.ObjectPath][]*watch
	viewers    map[*viewer]bool
	results    map[dbus.ObjectPath]JobSummary // of jobs that ended, so that none is missed before somebody waits for it
	ended      []dbus.ObjectPath              // the keys of results, oldest first
}

// maxResults bounds the results that are kept for jobs that nobody has waited for yet.
const maxResults = 256

// Dial connects to the system bus. It does not start left4d: the first call does.
// ctx bounds the connecting alone; the connection lasts until Close. Errors: that of ctx, else one that IsUnavailable
// knows.
func Dial(ctx context.Context) (*Client, error) {
	life, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	c := newClient()
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(life), dbus.WithSignalHandler(c))
	if !stop() {
		if err == nil {
			conn.Close()
		}
		return nil, fmt.Errorf("cannot connect to the system bus: %w", ctx.Err())
	}
	if err != nil {
		cancel()
		return nil, &Error{Name: disconnected, Message: fmt.Sprintf("cannot connect to the system bus: %v", err)}
	}
	c.conn = conn
	if err := c.subscribe(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("cannot listen on the system bus: %w", err)
	}
	return c, nil
}

func newClient() *Client {
	return &Client{
		Patience: 30 * time.Second,
		watches:  make(map[dbus.ObjectPath][]*watch),
		viewers:  make(map[*viewer]bool),
		results:  make(map[dbus.ObjectPath]JobSummary),
	}
}

// Close ends the connection. Calls and waits that are under way end with an error that IsUnavailable knows.
func (c *Client) Close() error {
	if c.bridge != nil {
		c.bridge.Close() // first: it ends a write that goes nowhere, which holds up the rest
	}
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// passes refuses what needs a descriptor to pass, where none can.
func (c *Client) passes(what string) error {
	if c.bridge == nil {
		return nil
	}
	return &Error{ErrNotSupported.(*Error).Name, fmt.Sprintf("cannot %s over ssh: run it on %s itself", what, c.bridge.host)}
}

// ServiceInfo is what left4d tells of itself.
type ServiceInfo struct {
	Version       string
	GameRevision  uint32     // the revision that the next start mounts, 0 while no game is installed
	GameRevisions []Revision // that are on disk, oldest first
	GameBuild     string     // Steam's number of the build that GameRevision is, "" = not known
	// AvailableGameBuild is the newest build that the last InstallGame has found, "" = left4d has not asked since it started.
	AvailableGameBuild string
}

// Service asks left4d about itself.
func (c *Client) Service(ctx context.Context) (ServiceInfo, error) {
	p, err := c.properties(ctx, names.Root, names.Manager)
	if err != nil {
		return ServiceInfo{}, err
	}
	return serviceInfo(p)
}

func serviceInfo(p *properties) (ServiceInfo, error) {
	var info ServiceInfo
	p.get("Version", &info.Version)
	p.get("GameRevision", &info.GameRevision)
	info.GameRevisions = p.revisions("GameRevisions")
	p.get("GameBuild", &info.GameBuild)
	p.get("AvailableGameBuild", &info.AvailableGameBuild)
	return info, p.err
}

// reads are the methods that change nothing.
var reads = regexp.MustCompile(`^(Get|List|Find|Open)`)

func (c *Client) manager(ctx context.Context, member string, args []any, results ...any) error {
	return c.call(ctx, names.Root, names.Manager, member, args, results...)
}

// call sends one method call to left4d and stores the answer in results. It makes the message by hand, because godbus'
// Object.Call drops the flag that lets polkit ask.
func (c *Client) call(ctx context.Context, path dbus.ObjectPath, iface, member string, args []any, results ...any) error {
	err := c.send(ctx, 0, path, iface, member, args, results...)
	// A left4d that left while it was asked: the bus starts it again, and a question can be put twice.
	if errors.Is(err, errNoReply) && reads.MatchString(member) {
		err = c.send(ctx, 0, path, iface, member, args, results...)
	}
	return err
}

func (c *Client) send(ctx context.Context, flags dbus.Flags, path dbus.ObjectPath, iface, member string, args []any, results ...any) error {
	msg := &dbus.Message{
		Type:  dbus.TypeMethodCall,
		Flags: flags,
		Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldDestination: dbus.MakeVariant(names.Service),
			dbus.FieldPath:        dbus.MakeVariant(path),
			dbus.FieldInterface:   dbus.MakeVariant(iface),
			dbus.FieldMember:      dbus.MakeVariant(member),
		},
		Body: args,
	}
	if !c.NoInteraction {
		msg.Flags |= dbus.FlagAllowInteractiveAuthorization
	}
	if len(args) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(args...))
	}
	call := <-c.conn.SendWithContext(ctx, msg, make(chan *dbus.Call, 1)).Done
	if call.Err != nil {
		return c.fromBus(call.Err)
	}
	if err := dbus.Store(call.Body, results...); err != nil {
		return fmt.Errorf("left4d answered %s with something else than expected: %w", member, err)
	}
	return nil
}

// properties holds what GetAll answered; get keeps the first error, so that a reader checks once.
type properties struct {
	values map[string]dbus.Variant
	err    error
}

func (c *Client) properties(ctx context.Context, path dbus.ObjectPath, iface string) (*properties, error) {
	p := &properties{}
	err := c.call(ctx, path, names.Properties, "GetAll", []any{iface}, &p.values)
	return p, err
}

// get stores the property in into; one that an older left4d does not have leaves it alone.
func (p *properties) get(name string, into any) {
	v, ok := p.values[name]
	if !ok || p.err != nil {
		return
	}
	if err := dbus.Store([]any{v.Value()}, into); err != nil {
		p.err = fmt.Errorf("left4d sent property %s with another type than expected: %w", name, err)
	}
}

// moment makes a time of microseconds since the epoch; 0 is no time.
func moment(usec uint64) time.Time {
	if usec == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(usec))
}

// noOptions is an a{sv} without keys.
func noOptions() map[string]dbus.Variant { return map[string]dbus.Variant{} }
