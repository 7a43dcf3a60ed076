// Package polkit asks one question: may this caller do this?
//
// The question goes to polkitd as CheckAuthorization of org.freedesktop.PolicyKit1.Authority, and its subject is always
// the caller's unique bus name. A pid would not do: it may belong to somebody else by the time that polkitd looks at it.
//
// Whatever is not a clear yes is a no. An Authority holds no lock while it waits, so a caller who sits at a password
// prompt delays nobody; who asks should hold none either, and look again at what the question was about when the answer
// is there, for it may have taken as long as a person does.
package polkit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	service   = "org.freedesktop.PolicyKit1"
	path      = dbus.ObjectPath("/org/freedesktop/PolicyKit1/Authority")
	authority = "org.freedesktop.PolicyKit1.Authority"

	// CheckAuthorizationFlags of the interface above.
	allowUserInteraction uint32 = 1
)

// Limit is how long polkitd may take when nobody is at a prompt, the bus's usual 25 s. Its rules are killed after 15 s.
const Limit = 25 * time.Second

// pause lies between the end of a polkitd and the second question. The bus tells that end before PID 1 has noticed it,
// and polkitd started for a question in between is a start of what still counts as running: it does nothing, and the bus
// waits 25 s for it (polkit 126 on systemd 257: 11 of 12 times; 122 on 252 never). No signal tells when PID 1 has.
const pause = 250 * time.Millisecond

// ErrLimit tells that it took longer.
var ErrLimit = fmt.Errorf("no answer within %v", Limit)

// ErrUnknown tells that polkitd knows no such action: the file that declares it is missing, or is not valid.
var ErrUnknown = errors.New("polkit does not know the action")

// A Request is what is asked.
type Request struct {
	Sender  string            // unique bus name of the caller, such as ":1.42"
	Action  string            // polkit action id, such as "me.left4.instance.start"
	Details map[string]string // what rules and messages may look at; polkitd takes them from root only, and keeps keys that begin with "polkit." to itself
	// Interactive lets polkitd ask a person for a password. It must come from the caller's message, flag
	// ALLOW_INTERACTIVE_AUTHORIZATION, and from nowhere else. Nothing limits the time that the person takes.
	Interactive bool
}

// An Answer is what polkitd says.
type Answer int

const (
	No        Answer = iota
	Yes              // the only one that permits anything
	Challenge        // a person would have to authenticate, and none could be asked: not allowed, or the caller has no agent
	Dismissed        // the person who was asked closed the prompt
)

func (a Answer) String() string {
	switch a {
	case No:
		return "no"
	case Yes:
		return "yes"
	case Challenge:
		return "challenge"
	case Dismissed:
		return "dismissed"
	}
	return "Answer(" + strconv.Itoa(int(a)) + ")"
}

// An Authority is polkitd, asked over one bus connection. All its methods may be called from several goroutines.
type Authority struct {
	object    dbus.BusObject
	questions atomic.Uint64 // how many were asked: polkitd tells them apart by (our bus name, cancellation id)
	limit     time.Duration
	pause     time.Duration
}

// New returns the Authority on conn's bus, the system bus. It sends nothing. The connection stays the caller's; it must
// be root's for Request.Details to be accepted.
func New(conn *dbus.Conn) *Authority {
	return &Authority{object: conn.Object(service, path), limit: Limit, pause: pause}
}

// Check asks polkitd and waits for its answer. It ends with (No, error) when ctx ends (a prompt is then taken back), when
// polkitd does not answer within 25 s although no person was to be asked, or is not there, or answers with an error.
// A polkitd that goes away in the middle of a question is asked once more, since the bus starts it again.
func (a *Authority) Check(ctx context.Context, r Request) (Answer, error) {
	if !strings.HasPrefix(r.Sender, ":") {
		return No, fmt.Errorf("cannot ask polkit about %s: %q is no unique bus name", r.Action, r.Sender)
	}
	if !r.Interactive {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, a.limit, ErrLimit)
		defer stop()
	}
	answer, err := a.ask(ctx, r)
	if vanished(err) {
		select {
		case <-ctx.Done():
			return No, fmt.Errorf("cannot ask polkit about %s: %w", r.Action, context.Cause(ctx))
		case <-time.After(a.pause):
		}
		answer, err = a.ask(ctx, r)
	}
	if err != nil {
		return No, fmt.Errorf("cannot ask polkit about %s: %w", r.Action, err)
	}
	return answer, nil
}

func (a *Authority) ask(ctx context.Context, r Request) (Answer, error) {
	type subject struct {
		Kind    string
		Details map[string]dbus.Variant
	}
	caller := subject{"system-bus-name", map[string]dbus.Variant{"name": dbus.MakeVariant(r.Sender)}}
	details := r.Details
	if details == nil {
		details = map[string]string{}
	}
	var flags uint32
	if r.Interactive {
		flags = allowUserInteraction
	}
	cancellation := strconv.FormatUint(a.questions.Add(1), 10)

	call := <-a.object.GoWithContext(ctx, authority+".CheckAuthorization", 0, make(chan *dbus.Call, 1),
		caller, r.Action, details, flags, cancellation).Done
	if ctx.Err() != nil {
		// NoAutoStart: a polkitd that is gone has no prompt to take back.
		a.object.Go(authority+".CancelCheckAuthorization", dbus.FlagNoReplyExpected|dbus.FlagNoAutoStart, nil, cancellation)
		return No, context.Cause(ctx)
	}
	if unknown(call.Err) {
		return No, ErrUnknown
	}
	if call.Err != nil {
		return No, call.Err
	}
	return read(call.Body)
}

// read takes the body of a reply apart, (bba{ss}): is authorized, is a challenge, details.
// It converts nothing: what is not exactly that is no answer.
func read(body []any) (Answer, error) {
	malformed := fmt.Errorf("polkit answered with the malformed %v", body)
	if len(body) != 1 {
		return No, malformed
	}
	result, ok := body[0].([]any)
	if !ok || len(result) != 3 {
		return No, malformed
	}
	authorized, ok1 := result[0].(bool)
	challenge, ok2 := result[1].(bool)
	details, ok3 := result[2].(map[string]string)
	switch {
	case !ok1 || !ok2 || !ok3:
		return No, malformed
	case authorized:
		return Yes, nil
	case details["polkit.dismissed"] != "":
		return Dismissed, nil
	case challenge:
		return Challenge, nil
	}
	return No, nil
}

// unknown tells it by polkitd's words, since the name of the error is that of all its failures.
func unknown(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == service+".Error.Failed" && strings.HasSuffix(e.Error(), " is not registered")
}

// vanished tells whether err means that polkitd went away before it answered, in the bus's words.
func vanished(err error) bool {
	var e dbus.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Name {
	case "org.freedesktop.DBus.Error.NoReply", // it left the bus
		"org.freedesktop.DBus.Error.NameHasNoOwner",
		"org.freedesktop.DBus.Error.ServiceUnknown":
		return true
	}
	return false
}
