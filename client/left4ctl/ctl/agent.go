package ctl

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// polkit asks for passwords through an agent of the caller's session. A desktop has one; a terminal, above all over
// ssh, has none, so left4ctl brings pkttyagent along as systemctl does. --fallback makes it leave the questions to an
// agent that is there already. What is asked about on another machine is asked there, where no agent of ours is.

// wantsAgent tells whether a question of polkit could be answered here, and might be asked: root is never asked.
func wantsAgent(noAskPassword, root, stdinIsTerminal, elsewhere bool) bool {
	return !noAskPassword && !root && stdinIsTerminal && !elsewhere
}

// bringAgent starts an agent for a verb that may need one.
func (v *invocation) bringAgent() {
	if v.command.asks && wantsAgent(v.noAskPassword, v.root, isTerminal(v.stdin), len(v.hosts) > 0) {
		v.agent = startAgent(v.ctx)
	}
}

type agent struct {
	process *exec.Cmd
}

// startAgent returns when the agent is registered, or nil: without one the call may still be allowed, and if not, that
// is the error to tell.
func startAgent(ctx context.Context) *agent {
	ready, registered, err := os.Pipe()
	if err != nil {
		return nil
	}
	defer ready.Close()
	cmd := exec.Command("pkttyagent", "--process", strconv.Itoa(os.Getpid()), "--notify-fd", "3", "--fallback")
	cmd.ExtraFiles = []*os.File{registered} // descriptor 3
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	err = cmd.Start()
	registered.Close()
	if err != nil {
		return nil
	}
	// It closes the descriptor when it is registered, and when it ends.
	stop := context.AfterFunc(ctx, func() { ready.Close() })
	defer stop()
	ready.Read(make([]byte, 1))
	return &agent{cmd}
}

// stop ends the agent, which also gives the terminal its echo back, and waits for it.
func (a *agent) stop() {
	a.process.Process.Signal(syscall.SIGTERM)
	a.process.Process.Signal(syscall.SIGCONT) // it may have been stopped by a read from the terminal
	a.process.Wait()
}
