package ctl

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestAgentIsWantedOnlyWhereAPersonCanAnswer(t *testing.T) {
	for _, tt := range []struct {
		no        bool
		root      bool
		terminal  bool
		elsewhere bool
		want      bool
	}{
		{false, false, true, false, true},
		{true, false, true, false, false},
		{false, true, true, false, false},
		{false, false, false, false, false},
		{false, false, true, true, false},
	} {
		if got := wantsAgent(tt.no, tt.root, tt.terminal, tt.elsewhere); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

// fakeAgent puts a pkttyagent that runs the shell script into the way.
func fakeAgent(t *testing.T, script string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	text := fmt.Sprintf("#!/bin/sh\necho \"$@\" >%s/arguments\n%s\n", dir, script)
	if err := os.WriteFile(dir+"/pkttyagent", []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}

func TestAgentIsAwaitedAndEndedWithTheCommand(t *testing.T) {
	dir := fakeAgent(t, "echo registered >$(dirname $0)/state; exec 3>&-; exec sleep 1000")
	a := startAgent(t.Context())
	if a == nil {
		t.Fatal("no agent")
	}
	if _, err := os.Stat(dir + "/state"); err != nil {
		t.Error("not awaited")
	}
	arguments, err := os.ReadFile(dir + "/arguments")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("--process %d --notify-fd 3 --fallback", os.Getpid()); strings.TrimSpace(string(arguments)) != want {
		t.Errorf("called with %s", arguments)
	}
	a.stop()
	if a.process.ProcessState == nil {
		t.Error("still there")
	}
}

func TestCommandGoesOnWithoutAnAgent(t *testing.T) {
	fakeAgent(t, "exit 1")
	if a := startAgent(t.Context()); a != nil {
		a.stop()
	}
	t.Setenv("PATH", t.TempDir())
	if startAgent(t.Context()) != nil {
		t.Error("an agent from nowhere")
	}
}

func TestInterruptEndsTheWaitForTheAgent(t *testing.T) {
	fakeAgent(t, "exec sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	startAgent(ctx).stop()
}
