package dbus

import (
	"context"
	"testing"
	"time"
)

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
