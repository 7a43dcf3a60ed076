package polkit

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// A question is a CheckAuthorization as it arrived at the fake polkitd.
type question struct {
	Kind    string
	Subject map[string]dbus.Variant
	Action  string
	Details map[string]string
	Flags   uint32
	Cancel  string
}

type result struct {
	Authorized, Challenge bool
	Details               map[string]string
}

// fakePolkitd answers with what its script says, on the far end of a pipe.
type fakePolkitd struct {
	script   func(question) (any, *dbus.Error)
	canceled chan string
}

func (f *fakePolkitd) CheckAuthorization(subject struct {
	Kind    string
	Details map[string]dbus.Variant
}, action string, details map[string]string, flags uint32, cancel string) (any, *dbus.Error) {
	return f.script(question{subject.Kind, subject.Details, action, details, flags, cancel})
}

func (f *fakePolkitd) CancelCheckAuthorization(id string) *dbus.Error {
	f.canceled <- id
	return nil
}

// authenticated is an end of a pipe that plays the bus's part of the authentication itself, so that two godbus
// connections, which both believe that they are clients, can talk over it.
type authenticated struct {
	net.Conn
	said  io.Reader
	begun atomic.Bool
}

func authenticate(c net.Conn) *authenticated {
	return &authenticated{Conn: c, said: strings.NewReader("REJECTED ANONYMOUS\r\nOK 0123456789abcdef0123456789abcdef\r\n")}
}

func (a *authenticated) Write(p []byte) (int, error) {
	if a.begun.Load() {
		return a.Conn.Write(p)
	}
	a.begun.Store(string(p) == "BEGIN\r\n")
	return len(p), nil
}

func (a *authenticated) Read(p []byte) (int, error) {
	if n, err := a.said.Read(p); err != io.EOF {
		return n, err
	}
	return a.Conn.Read(p)
}

// connect returns an Authority whose polkitd follows script, and that polkitd.
func connect(t *testing.T, script func(question) (any, *dbus.Error)) (*Authority, *fakePolkitd) {
	t.Helper()
	near, far := net.Pipe()
	fake := &fakePolkitd{script: script, canceled: make(chan string, 10)}
	conns := make([]*dbus.Conn, 2)
	for i, end := range []net.Conn{near, far} {
		conn, err := dbus.NewConn(authenticate(end))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if i == 1 {
			if err := conn.Export(fake, path, authority); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.Auth([]dbus.Auth{dbus.AuthAnonymous()}); err != nil {
			t.Fatal(err)
		}
		conns[i] = conn
	}
	a := New(conns[0])
	a.pause = 0
	return a, fake
}

func busError(name string) *dbus.Error {
	return dbus.NewError(name, []any{"scripted"})
}

func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		result result
		want   Answer
	}{
		{"refused", result{false, false, nil}, No},
		{"granted", result{true, false, nil}, Yes},
		{"granted for a while", result{true, false, map[string]string{"polkit.temporary_authorization_id": "tmpauthz1"}}, Yes},
		{"password needed", result{false, true, map[string]string{"polkit.retains_authorization_after_challenge": "true"}}, Challenge},
		{"prompt closed", result{false, false, map[string]string{"polkit.dismissed": "true"}}, Dismissed},
		{"prompt closed, still a challenge", result{false, true, map[string]string{"polkit.dismissed": "true"}}, Dismissed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, _ := connect(t, func(question) (any, *dbus.Error) { return tt.result, nil })
			got, err := a.Check(context.Background(), Request{Sender: ":1.7", Action: "me.left4.instance.start"})
			if err != nil || got != tt.want {
				t.Errorf("Check = %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func TestQuestionHoldsWhatRulesNeed(t *testing.T) {
	var got []question
	a, _ := connect(t, func(q question) (any, *dbus.Error) {
		got = append(got, q)
		return result{true, false, nil}, nil
	})
	details := map[string]string{"instance": "versus-1", "verb": "restart", "owner": "alice"}
	for _, interactive := range []bool{false, true} {
		if _, err := a.Check(context.Background(), Request{":1.7", "me.left4.instance.restart", details, interactive}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Check(context.Background(), Request{Sender: ":1.7", Action: "me.left4.game.install"}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []question{
		{Action: "me.left4.instance.restart", Details: details, Flags: 0},
		{Action: "me.left4.instance.restart", Details: details, Flags: 1},
		{Action: "me.left4.game.install"},
	} {
		q := got[i]
		if q.Kind != "system-bus-name" || len(q.Subject) != 1 || q.Subject["name"].Value() != ":1.7" {
			t.Errorf("question %d is about the subject %s %v", i, q.Kind, q.Subject)
		}
		if q.Action != want.Action || q.Flags != want.Flags || !maps.Equal(q.Details, want.Details) {
			t.Errorf("question %d = %+v, want %+v", i, q, want)
		}
		if q.Cancel == "" || i > 0 && q.Cancel == got[i-1].Cancel {
			t.Errorf("question %d has the cancellation id %q, which is not its own", i, q.Cancel)
		}
	}
}

func TestNothingIsAskedAboutWhatIsNoCaller(t *testing.T) {
	a, _ := connect(t, func(q question) (any, *dbus.Error) {
		t.Errorf("asked %+v", q)
		return result{true, false, nil}, nil
	})
	for _, sender := range []string{"", "me.left4", "1.7"} {
		if got, err := a.Check(context.Background(), Request{Sender: sender, Action: "me.left4.instance.start"}); got != No || err == nil {
			t.Errorf("Check for sender %q = %v, %v", sender, got, err)
		}
	}
}

func TestMalformedAnswersMeanNo(t *testing.T) {
	for _, body := range []any{
		true,
		"yes",
		[]bool{true, true},
		struct{ A bool }{true},
		struct{ A, B string }{"true", "true"},
		struct {
			A, B bool
			C    string
		}{true, false, ""},
		struct {
			A, B bool
			C    map[string]string
			D    bool
		}{true, false, nil, true},
		struct {
			A uint32
			B bool
			C map[string]string
		}{1, false, nil},
	} {
		a, _ := connect(t, func(question) (any, *dbus.Error) { return body, nil })
		got, err := a.Check(context.Background(), Request{Sender: ":1.7", Action: "me.left4.instance.start"})
		if got != No || err == nil {
			t.Errorf("Check with the answer %#v = %v, %v", body, got, err)
		}
	}
}

func TestErrorsMeanNoAndSayWhy(t *testing.T) {
	a, _ := connect(t, func(question) (any, *dbus.Error) {
		return nil, busError("org.freedesktop.PolicyKit1.Error.Failed")
	})
	got, err := a.Check(context.Background(), Request{Sender: ":1.7", Action: "me.left4.instance.start"})
	if got != No || err == nil || err.Error() != "cannot ask polkit about me.left4.instance.start: scripted" {
		t.Errorf("Check = %v, %v", got, err)
	}
}

func TestPolkitdThatGoesAwayIsAskedOnceMore(t *testing.T) {
	for _, name := range []string{"NoReply", "NameHasNoOwner", "ServiceUnknown"} {
		t.Run(name, func(t *testing.T) {
			for _, comesBack := range []bool{true, false} {
				asked := 0
				a, _ := connect(t, func(question) (any, *dbus.Error) {
					asked++
					if asked == 2 && comesBack {
						return result{true, false, nil}, nil
					}
					return nil, busError("org.freedesktop.DBus.Error." + name)
				})
				got, err := a.Check(context.Background(), Request{Sender: ":1.7", Action: "me.left4.instance.start"})
				if asked != 2 {
					t.Errorf("asked %d times, not 2", asked)
				}
				if comesBack && (got != Yes || err != nil) {
					t.Errorf("back again: Check = %v, %v", got, err)
				}
				if !comesBack && (got != No || err == nil) {
					t.Errorf("gone for good: Check = %v, %v", got, err)
				}
			}
		})
	}
}

func TestOtherErrorsAreNotAskedAgain(t *testing.T) {
	asked := 0
	a, _ := connect(t, func(question) (any, *dbus.Error) {
		asked++
		return nil, busError("org.freedesktop.DBus.Error.AccessDenied")
	})
	if got, err := a.Check(context.Background(), Request{Sender: ":1.7", Action: "me.left4.instance.start"}); got != No || err == nil || asked != 1 {
		t.Errorf("Check = %v, %v after %d questions", got, err, asked)
	}
}

func TestPromptIsTakenBackWhenTheCallerLeaves(t *testing.T) {
	for _, interactive := range []bool{false, true} {
		prompt := make(chan string)
		release := make(chan struct{})
		a, fake := connect(t, func(q question) (any, *dbus.Error) {
			prompt <- q.Cancel
			<-release
			return result{true, false, nil}, nil
		})
		left := errors.New("the caller left the bus")
		ctx, leave := context.WithCancelCause(context.Background())
		done := make(chan struct{})
		var got Answer
		var err error
		go func() {
			defer close(done)
			got, err = a.Check(ctx, Request{":1.7", "me.left4.instance.start", nil, interactive})
		}()
		id := <-prompt
		leave(left)
		<-done
		if got != No || !errors.Is(err, left) {
			t.Errorf("Check = %v, %v", got, err)
		}
		if canceled := <-fake.canceled; canceled != id {
			t.Errorf("canceled question %q, not %q", canceled, id)
		}
		close(release)
	}
}

func TestPersonHasAllTheTime(t *testing.T) {
	const short = time.Millisecond
	prompt := make(chan struct{})
	answer := make(chan struct{})
	a, _ := connect(t, func(q question) (any, *dbus.Error) {
		prompt <- struct{}{}
		<-answer
		return result{true, false, nil}, nil
	})
	a.limit = short
	request := Request{Sender: ":1.7", Action: "me.left4.instance.start", Interactive: true}
	yes := make(chan Answer)
	go func() {
		got, err := a.Check(context.Background(), request)
		if err != nil {
			t.Error(err)
		}
		yes <- got
	}()
	<-prompt

	// A question without a person ends at the limit, though the one with a person began before it and goes on.
	request.Interactive = false
	no := make(chan error)
	go func() {
		_, err := a.Check(context.Background(), request)
		no <- err
	}()
	<-prompt
	if err := <-no; !errors.Is(err, ErrLimit) {
		t.Errorf("Check ended with %v, not with %v", err, ErrLimit)
	}
	close(answer)
	if got := <-yes; got != Yes {
		t.Errorf("the person said yes, Check %v", got)
	}
}

func TestOneAtThePromptDelaysNobody(t *testing.T) {
	prompt := make(chan struct{})
	release := make(chan struct{})
	a, _ := connect(t, func(q question) (any, *dbus.Error) {
		if q.Flags == allowUserInteraction {
			close(prompt)
			<-release
		}
		return result{true, false, nil}, nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Check(context.Background(), Request{":1.7", "me.left4.instance.start", nil, true})
	}()
	<-prompt
	for range 100 {
		if got, err := a.Check(context.Background(), Request{Sender: ":1.8", Action: "me.left4.instance.stop"}); got != Yes {
			t.Fatalf("Check = %v, %v", got, err)
		}
	}
	close(release)
	<-done
}

func TestLostBusMeansNo(t *testing.T) {
	near, far := net.Pipe()
	conn, err := dbus.NewConn(authenticate(near))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Auth([]dbus.Auth{dbus.AuthAnonymous()}); err != nil {
		t.Fatal(err)
	}
	go func() {
		bufio.NewReader(far).ReadByte()
		far.Close()
	}()
	got, err := New(conn).Check(context.Background(), Request{Sender: ":1.7", Action: "me.left4.instance.start", Interactive: true})
	if got != No || err == nil {
		t.Errorf("Check = %v, %v", got, err)
	}
}
