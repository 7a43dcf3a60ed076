package dbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"left4.me/left4/daemon"
	"left4.me/left4/polkit"
)

// polkitTime is how long polkit may take to show that it is there, and what it knows. The first question starts it, which
// took an emulated machine more than 5 s. Callers have 25 s.
const polkitTime = 15 * time.Second

// maxProblems is how many problems may be named at once; more are told by their kinds.
const maxProblems = 1000

func (s *Server) listProblems(c *call) ([]any, error) {
	if err := noOptions(c.args[0]); err != nil {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, thing{}); err != nil {
		return nil, err
	}
	all := []daemon.Problem{}
	err := s.walk(c, func(ctx context.Context) error {
		all = append(all, s.daemon.Problems(ctx)...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return []any{append(all, s.polkitProblems(c)...)}, nil
}

// polkitProblems asks about every action. polkit says whether it knows one before it looks who asks.
func (s *Server) polkitProblems(c *call) []daemon.Problem {
	ctx, cancel := context.WithTimeout(c.ctx, polkitTime)
	defer cancel()
	var unknown []string
	for i, action := range s.face.actions {
		_, err := s.auth.Check(ctx, polkit.Request{Sender: c.sender, Action: action, Details: details(action, thing{}, identity{})})
		if i > 0 && ctx.Err() != nil {
			break // slow, but it answers
		}
		switch {
		case c.ctx.Err() != nil: // nobody hears it
		case errors.Is(err, polkit.ErrUnknown):
			unknown = append(unknown, action)
		case err != nil:
			return []daemon.Problem{{
				Kind: "no-polkit", Severity: daemon.SeverityWarning,
				What: "polkit does not answer, so nobody but root may do anything: " + err.Error() + "; systemctl start polkit starts it where it is installed",
			}}
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return []daemon.Problem{{
		Kind: "unknown-action", Severity: daemon.SeverityWarning,
		What: fmt.Sprintf("polkit does not know %d of left4's %d actions, the first is %s, so nobody but root may do these; %s brings their file back",
			len(unknown), len(s.face.actions), unknown[0], s.daemon.Reinstall()),
	}}
}

func (s *Server) repairProblems(c *call) ([]any, error) {
	which := c.args[0].([]string)
	if len(which) > maxProblems {
		return nil, &daemon.Error{Code: daemon.InvalidArgument, Message: "so many problems cannot be named at once: name their kinds"}
	}
	r, err := c.request(c.args[1])
	if err != nil {
		return nil, err
	}
	if err := s.authorize(c, c.method.action, thing{}); err != nil {
		return nil, err
	}
	return jobReply(s.daemon.RepairProblems(which, r))
}
