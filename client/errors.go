package client

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// Error is an answer of left4d, or of the bus in its place, that is not the wanted one. Name is for programs (compare
// with errors.Is and the Err… values below), Message is one line for people and may change at any time.
type Error struct {
	Name    string
	Message string
}

func (e *Error) Error() string {
	if e.Message == "" {
		return e.Name
	}
	return e.Message
}

// Is tells that target is the same kind of error: one of the Err… values of the same name.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Name == e.Name
}

// The errors of left4d, one for each name that the bus interface promises. Use them with errors.Is.
var (
	ErrInvalidName      error = &Error{Name: names.Error + "InvalidName"}
	ErrInvalidArgument  error = &Error{Name: names.Error + "InvalidArgument"}
	ErrNoSuchInstance   error = &Error{Name: names.Error + "NoSuchInstance"}
	ErrNoSuchBlueprint  error = &Error{Name: names.Error + "NoSuchBlueprint"}
	ErrNoSuchOverlay    error = &Error{Name: names.Error + "NoSuchOverlay"}
	ErrNoSuchJob        error = &Error{Name: names.Error + "NoSuchJob"}
	ErrInstanceExists   error = &Error{Name: names.Error + "InstanceExists"}
	ErrBlueprintExists  error = &Error{Name: names.Error + "BlueprintExists"}
	ErrOverlayExists    error = &Error{Name: names.Error + "OverlayExists"}
	ErrPortInUse        error = &Error{Name: names.Error + "PortInUse"}
	ErrNoFreePort       error = &Error{Name: names.Error + "NoFreePort"}
	ErrInUse            error = &Error{Name: names.Error + "InUse"}
	ErrBusy             error = &Error{Name: names.Error + "Busy"}
	ErrNotInstalled     error = &Error{Name: names.Error + "NotInstalled"}
	ErrQuotaExceeded    error = &Error{Name: names.Error + "QuotaExceeded"}
	ErrAccessDenied     error = &Error{Name: names.ErrAccessDenied}
	ErrInteractiveAuth  error = &Error{Name: names.ErrInteractive}
	ErrNotSupported     error = &Error{Name: "org.freedesktop.DBus.Error.NotSupported"}
	errNoReply          error = &Error{Name: "org.freedesktop.DBus.Error.NoReply"}
	errUnknownObject    error = &Error{Name: "org.freedesktop.DBus.Error.UnknownObject"}
	errUnknownInterface error = &Error{Name: "org.freedesktop.DBus.Error.UnknownInterface"}
)

const disconnected = "org.freedesktop.DBus.Error.Disconnected"

// What the bus answers in left4d's place: the name is not owned and nothing can be started for it, the start failed,
// or left4d left before it answered.
var unavailable = map[string]bool{
	"org.freedesktop.DBus.Error.ServiceUnknown":           true,
	"org.freedesktop.DBus.Error.NameHasNoOwner":           true,
	"org.freedesktop.DBus.Error.NoReply":                  true,
	"org.freedesktop.DBus.Error.TimedOut":                 true,
	"org.freedesktop.DBus.Error.Timeout":                  true,
	"org.freedesktop.DBus.Error.Spawn.ExecFailed":         true,
	"org.freedesktop.DBus.Error.Spawn.ForkFailed":         true,
	"org.freedesktop.DBus.Error.Spawn.ChildExited":        true,
	"org.freedesktop.DBus.Error.Spawn.ChildSignaled":      true,
	"org.freedesktop.DBus.Error.Spawn.Failed":             true,
	"org.freedesktop.DBus.Error.Spawn.FailedToSetup":      true,
	"org.freedesktop.DBus.Error.Spawn.ConfigInvalid":      true,
	"org.freedesktop.DBus.Error.Spawn.ServiceNotValid":    true,
	"org.freedesktop.DBus.Error.Spawn.ServiceNotFound":    true,
	"org.freedesktop.DBus.Error.Spawn.PermissionsInvalid": true,
	"org.freedesktop.DBus.Error.Spawn.FileInvalid":        true,
	"org.freedesktop.systemd1.LoadFailed":                 true,
	"org.freedesktop.systemd1.NoSuchUnit":                 true,
	"org.freedesktop.systemd1.UnitMasked":                 true,
	"org.freedesktop.systemd1.JobFailed":                  true,
	"org.freedesktop.systemd1.ShuttingDown":               true,
}

// IsNoSuchInstance tells that the instance that was named does not exist.
func IsNoSuchInstance(err error) bool { return errors.Is(err, ErrNoSuchInstance) }

// IsAccessDenied tells that polkit or the bus did not allow the call, or would have had to ask somebody and must not.
func IsAccessDenied(err error) bool {
	return errors.Is(err, ErrAccessDenied) || errors.Is(err, ErrInteractiveAuth)
}

// IsUnavailable tells that left4d did not answer: it does not run and the bus cannot start it, it left before it
// answered, or the bus itself is gone. What was asked for may have been done or not.
func IsUnavailable(err error) bool {
	var e *Error
	return errors.As(err, &e) && (unavailable[e.Name] || e.Name == disconnected)
}

// fromBus makes an error of ours out of what a call on the bus ended with. Errors of a context stay what they are.
func (c *Client) fromBus(err error) error {
	var e dbus.Error
	var format dbus.FormatError
	var network *net.OpError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		message, _ := first(e.Body).(string)
		return &Error{Name: e.Name, Message: message}
	case errors.As(err, &format):
		return &Error{Name: names.Error + "InvalidArgument", Message: "a text that is not UTF-8, or holds a NUL byte, cannot be sent"}
	case errors.Is(err, dbus.ErrClosed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrClosed),
		errors.Is(err, syscall.EPIPE), errors.As(err, &network), c.conn.Context().Err() != nil:
		return c.disconnected()
	}
	return err
}

// disconnected is the error when there is no connection any more.
func (c *Client) disconnected() error {
	if c.bridge != nil {
		return &Error{disconnected, c.bridge.lost()}
	}
	return &Error{disconnected, "the connection to the system bus is lost"}
}

func first(body []any) any {
	if len(body) == 0 {
		return nil
	}
	return body[0]
}
