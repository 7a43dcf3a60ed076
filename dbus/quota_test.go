package dbus

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/polkit"
)

// A turn that is kept for a while comes back.
func TestATurnThatIsGivenLater(t *testing.T) {
	turns := newTurns(1)
	for range 3 {
		if err := turns.take(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		turns.giveLater(1, time.Millisecond)
	}
}

// Who asks much waits for himself, and takes nobody else's turn.
func TestTurns(t *testing.T) {
	turns := newTurns(2)
	ctx, cancel := context.WithCancel(context.Background())
	for range 2 {
		if err := turns.take(ctx, 1); err != nil {
			t.Fatal(err)
		}
	}
	third := make(chan error)
	go func() { third <- turns.take(context.Background(), 1) }()
	if err := turns.take(ctx, 2); err != nil {
		t.Errorf("another user: %v", err)
	}
	turns.give(2)
	select {
	case err := <-third:
		t.Fatalf("a third turn was had at once, %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	turns.give(1)
	if err := <-third; err != nil {
		t.Error(err)
	}
	gone := make(chan error)
	go func() { gone <- turns.take(ctx, 1) }()
	cancel()
	if err := <-gone; err == nil {
		t.Error("who has gone had a turn")
	}
	turns.give(1)
	turns.give(1)
	if len(turns.users) != 0 {
		t.Errorf("%d users are left", len(turns.users))
	}
}

// Who asks much of a polkit that hangs is told so once, not one after the other; a person has all the time.
func TestAPolkitThatHangsIsWaitedForOnce(t *testing.T) {
	b := startBus(t)
	b.server.patience = 50 * time.Millisecond
	asked := make(chan bool, 100)
	b.server.auth = answers(func(ctx context.Context, r polkit.Request) (polkit.Answer, error) {
		asked <- r.Interactive
		<-ctx.Done()
		return polkit.No, context.Cause(ctx)
	})
	person, leave := context.WithCancel(context.Background())
	prompted := make(chan error)
	go func() {
		c := &call{header: header{sender: ":1.5", flags: dbus.FlagAllowInteractiveAuthorization}, ctx: person, uid: 1}
		prompted <- b.server.authorize(c, "me.left4.game.install", thing{})
	}()
	if !<-asked {
		t.Fatal("the question allows no person")
	}
	refused := make(chan error)
	const calls = 10 * maxQuestions
	for range calls {
		go func() {
			c := &call{header: header{sender: ":1.6"}, ctx: context.Background(), uid: 1}
			refused <- b.server.authorize(c, "me.left4.game.install", thing{})
		}()
	}
	for range calls {
		if err := <-refused; err == nil || !strings.Contains(err.Error(), "polkit does not answer") {
			t.Errorf("the answer is %v", err)
		}
	}
	select {
	case err := <-prompted:
		t.Errorf("the prompt is gone: %v", err)
	default:
	}
	leave()
	if err := <-prompted; err == nil {
		t.Error("who has gone may")
	}
	if len(b.server.questions.users)+len(b.server.prompts.users) != 0 {
		t.Error("turns are left")
	}
}
