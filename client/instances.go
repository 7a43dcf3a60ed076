package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// InstanceSummary is what ListInstances tells of one instance.
type InstanceSummary struct {
	Name         string
	Label        string
	State        string // stopped, starting, running, stopping, restarting, failed
	DesiredState string // running, stopped
	Cause        string // why State is what it is, for people; may be empty
	Blueprint    string // empty for an instance with a definition of its own
	Port         uint16
	Object       dbus.ObjectPath
}

// Instance is all that left4d tells anybody of one instance.
type Instance struct {
	InstanceSummary
	Overlays       []Overlay // highest precedence first, those of its blueprint included
	Unit           string    // the systemd unit
	Owner          uint32    // uid of who created it
	OwnerName      string    // the login name of that user on left4d's machine; empty where there was none
	Drifted        bool      // State is not DesiredState, and no job is about to mend that
	PendingRestart bool      // what runs is not what the next start would give
	PendingCause   string    // what the next start would bring, for people; empty where PendingRestart is false
	MainPID        uint32    // 0 while nothing runs
	StateSince     time.Time // zero where it is not known
	Restarts       uint32    // automatic ones since somebody last started it
	Limits         Limits    // those of its blueprint included
}

// JobOptions are the options of the methods that return a Job.
type JobOptions struct {
	// Timeout is when left4d gives the job up, which then ends as "timeout"; 0 leaves that to left4d.
	// It counts in microseconds and from the moment the job is accepted.
	Timeout time.Duration
}

func (o JobOptions) variants() map[string]dbus.Variant {
	options := noOptions()
	if o.Timeout > 0 {
		options["timeout"] = dbus.MakeVariant(uint64(max(o.Timeout.Microseconds(), 1)))
	}
	return options
}

// InitializeOptions are the options of InitializeInstance.
type InitializeOptions struct {
	JobOptions
	// FilesFrom is another instance, which must be stopped: all that its server has written is copied first.
	FilesFrom string
}

// ConfigureOptions are the options of ConfigureInstance.
type ConfigureOptions struct {
	NewRconPassword bool // make a new one, which the server has from its next start
}

// CreateInstance defines an instance and reserves its name and port; nothing runs yet.
// Errors: ErrInvalidName, ErrInvalidArgument, ErrInstanceExists, ErrNoSuchBlueprint, ErrNoSuchOverlay, ErrPortInUse,
// ErrNoFreePort, ErrAccessDenied.
func (c *Client) CreateInstance(ctx context.Context, name string, config Config) (dbus.ObjectPath, error) {
	var object dbus.ObjectPath
	err := c.manager(ctx, "CreateInstance", []any{name, config.variants(), noOptions()}, &object)
	return object, err
}

// InitializeInstance renders an instance's files, unit settings and mount plan. With a config it first defines the
// instance anew as the config says, or creates it if there is none. Errors as for CreateInstance and StartInstance;
// ErrBusy also when files are to be copied from an instance that is not down, ErrInUse when this one has some already.
func (c *Client) InitializeInstance(ctx context.Context, name string, config Config, o InitializeOptions) (*Job, error) {
	options := o.variants()
	if o.FilesFrom != "" {
		options["files_from"] = dbus.MakeVariant(o.FilesFrom)
	}
	return c.job(ctx, "InitializeInstance", name, config.variants(), options)
}

// ConfigureInstance changes those keys of the definition that changes has; a running server has them from its next
// start, limits at once. A list and the limits are replaced as a whole.
// Errors: ErrNoSuchInstance, ErrInvalidArgument, ErrNoSuchBlueprint, ErrNoSuchOverlay, ErrPortInUse, ErrNoFreePort,
// ErrAccessDenied.
func (c *Client) ConfigureInstance(ctx context.Context, name string, changes Config, o ConfigureOptions) error {
	options := noOptions()
	if o.NewRconPassword {
		options["new_rcon_password"] = dbus.MakeVariant(true)
	}
	return c.manager(ctx, "ConfigureInstance", []any{name, changes.variants(), options})
}

// StartInstance renders, enables and starts; starting what runs is a success that does nothing.
// Errors: ErrNoSuchInstance, ErrNotInstalled, ErrBusy, ErrQuotaExceeded, ErrAccessDenied.
func (c *Client) StartInstance(ctx context.Context, name string, o JobOptions) (*Job, error) {
	return c.job(ctx, "StartInstance", name, o.variants())
}

// StopInstance disables and stops; it ends a start of the same instance that is under way. Errors as StartInstance.
func (c *Client) StopInstance(ctx context.Context, name string, o JobOptions) (*Job, error) {
	return c.job(ctx, "StopInstance", name, o.variants())
}

// RestartInstance stops, renders and starts again, and starts what is stopped. Errors as StartInstance.
func (c *Client) RestartInstance(ctx context.Context, name string, o JobOptions) (*Job, error) {
	return c.job(ctx, "RestartInstance", name, o.variants())
}

// KillInstance disables and ends every process of the instance at once; it stays down. Errors as StartInstance.
func (c *Client) KillInstance(ctx context.Context, name string, o JobOptions) (*Job, error) {
	return c.job(ctx, "KillInstance", name, o.variants())
}

// ResetInstance stops and removes all that the server wrote; the definition stays. Errors as StartInstance.
func (c *Client) ResetInstance(ctx context.Context, name string, o JobOptions) (*Job, error) {
	return c.job(ctx, "ResetInstance", name, o.variants())
}

// DeleteInstance is ResetInstance, and the definition goes too. Deleting what is not there succeeds.
func (c *Client) DeleteInstance(ctx context.Context, name string, o JobOptions) (*Job, error) {
	return c.job(ctx, "DeleteInstance", name, o.variants())
}

// GetInstance returns all that is known of one instance, or ErrNoSuchInstance.
func (c *Client) GetInstance(ctx context.Context, name string) (Instance, error) {
	object, err := c.object(ctx, "GetInstance", name)
	if err != nil {
		return Instance{}, err
	}
	p, err := c.properties(ctx, object, names.Instance)
	if err != nil {
		return Instance{}, gone(err, ErrNoSuchInstance, "instance "+name)
	}
	return instanceInfo(object, p)
}

func instanceInfo(object dbus.ObjectPath, p *properties) (Instance, error) {
	i := Instance{InstanceSummary: InstanceSummary{Object: object}}
	var since uint64
	p.get("Name", &i.Name)
	p.get("Label", &i.Label)
	p.get("Blueprint", &i.Blueprint)
	p.get("Overlays", &i.Overlays)
	p.get("Port", &i.Port)
	p.get("Unit", &i.Unit)
	p.get("Owner", &i.Owner)
	p.get("OwnerName", &i.OwnerName)
	p.get("State", &i.State)
	p.get("DesiredState", &i.DesiredState)
	p.get("Drifted", &i.Drifted)
	p.get("PendingRestart", &i.PendingRestart)
	p.get("PendingCause", &i.PendingCause)
	p.get("Cause", &i.Cause)
	p.get("MainPID", &i.MainPID)
	p.get("StateSince", &since)
	p.get("Restarts", &i.Restarts)
	i.Limits = p.limits("Limits")
	i.StateSince = moment(since)
	return i, p.err
}

// GetInstanceConfig returns the definition of an instance, as CreateInstance accepts it back.
// Errors: ErrNoSuchInstance, ErrAccessDenied; and one if this package does not know all of its keys.
func (c *Client) GetInstanceConfig(ctx context.Context, name string) (Config, error) {
	var values map[string]dbus.Variant
	if err := c.of(ctx, kindInstance, name, "GetConfig", nil, &values); err != nil {
		return Config{}, err
	}
	return decodeConfig(values)
}

// GetServerConfig returns the server.cfg that the next start would give, with what is secret blanked and, behind each
// line, a comment that tells where it comes from. Errors: ErrNoSuchInstance, ErrAccessDenied.
func (c *Client) GetServerConfig(ctx context.Context, name string) (string, error) {
	var text string
	err := c.of(ctx, kindInstance, name, "GetServerConfig", nil, &text)
	return text, err
}

// SecretRconPassword is the key of the password that a server's remote console asks for.
const SecretRconPassword = "rcon_password"

// GetSecret returns a secret of an instance. Errors: ErrNoSuchInstance, ErrInvalidArgument, ErrAccessDenied.
func (c *Client) GetSecret(ctx context.Context, name, key string) (string, error) {
	var value string
	err := c.manager(ctx, "GetSecret", []any{name, key}, &value)
	return value, err
}

// Found is a layer of an instance that holds a path.
type Found struct {
	Layer string // upper (what the server itself wrote), the name of an overlay, or game
	// Kind is file, directory, link, opaque (a directory that hides what is below it), whiteout (the path is removed
	// here) or other, with "hidden " before it where something above hides it.
	Kind string
}

// FindFile returns the layers of an instance that hold a path, highest first.
// Errors: ErrNoSuchInstance, ErrInvalidArgument, ErrAccessDenied.
func (c *Client) FindFile(ctx context.Context, instance, path string) ([]Found, error) {
	var layers []Found
	err := c.of(ctx, kindInstance, instance, "FindFile", []any{path}, &layers)
	return layers, err
}

// Change is a path that a server itself changed.
type Change struct {
	Path   string
	Change string // added, changed, replaced (by a file of another kind), removed
	Bytes  uint64
}

// ListChanges returns what a server itself changed against the layers below; more tells that left4d left some out.
// Errors: ErrNoSuchInstance, ErrAccessDenied.
func (c *Client) ListChanges(ctx context.Context, instance string) (changes []Change, more bool, err error) {
	err = c.of(ctx, kindInstance, instance, "ListChanges", []any{noOptions()}, &changes, &more)
	return changes, more, err
}

// Map is a map that a server could be started with.
type Map struct {
	Name     string   // as +map has it
	Campaign string   // its title; "" where no campaign names the map
	Modes    []string // that the campaign has it for
	Layer    string   // that brings it: the name of an overlay, or game
	File     string   // a mission file, a VPK file, or the map itself
}

// Unread is a file that should tell of maps and could not be read.
type Unread struct{ Layer, File, Reason string }

// Maps is what there is of maps.
type Maps struct {
	Maps   []Map // those of a campaign together, in its order, then those of none
	Unread []Unread
	More   bool // left4d left some out
}

// InstanceMaps returns the maps in the layers of an instance.
// Errors: ErrNoSuchInstance, ErrNotInstalled, ErrAccessDenied.
func (c *Client) InstanceMaps(ctx context.Context, instance string) (m Maps, err error) {
	err = c.of(ctx, kindInstance, instance, "ListMaps", []any{noOptions()}, &m.Maps, &m.Unread, &m.More)
	return m, err
}

// ListInstances returns all instances, by name.
func (c *Client) ListInstances(ctx context.Context) ([]InstanceSummary, error) {
	var list []InstanceSummary
	err := c.manager(ctx, "ListInstances", []any{noOptions()}, &list)
	return list, err
}

// InspectInstances returns all that is known of all instances, by name, in one question.
func (c *Client) InspectInstances(ctx context.Context) ([]Instance, error) {
	all, err := managed(ctx, c, names.Instance, instanceInfo)
	slices.SortFunc(all, func(a, b Instance) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

// object asks the Manager for the object of a name.
func (c *Client) object(ctx context.Context, member, name string) (dbus.ObjectPath, error) {
	var object dbus.ObjectPath
	err := c.manager(ctx, member, []any{name}, &object)
	return object, err
}

// gone makes the error that the Manager would give out of what an object that has just gone answers.
func gone(err, named error, what string) error {
	e, ok := err.(*Error)
	if ok && (e.Is(errUnknownObject) || e.Is(errUnknownInterface)) {
		return &Error{Name: named.(*Error).Name, Message: fmt.Sprintf("%s is gone", what)}
	}
	return err
}
