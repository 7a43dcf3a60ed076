package dbus

import (
	"strings"
	"time"

	"left4.me/left4/polkit"
)

// Answers of GetPermissions.
const (
	allowed       = "yes"
	authenticates = "auth"
	refused       = "no"
)

// getPermissions asks polkit about every action, one after the other: it answers one at a time anyway, and the bus bounds
// how many questions of ours may be open.
func (s *Server) getPermissions(c *call) ([]any, error) {
	about := thing{instance, c.args[0].(string)}
	var owner identity
	if about.name != "" {
		var err error
		if owner, err = s.identify(about); err != nil {
			return nil, err
		}
	}
	ctx, stop := s.inTime(c.ctx)
	defer stop()
	permissions := map[string]string{}
	silent := s.rights.take(ctx, c.uid) != nil // polkit does not answer: it is not waited for again and again
	if !silent {
		began := time.Now()
		defer func() { s.rights.giveLater(c.uid, min(rightsCost*time.Since(began), maxRefusalCost)) }()
	}
	for _, action := range s.face.actions {
		asked, who := thing{}, identity{}
		if strings.HasPrefix(action, "me.left4.instance.") || action == "me.left4.job.cancel" {
			asked, who = about, owner
		}
		answer := polkit.Yes
		switch {
		case c.uid == 0:
		case silent:
			answer = polkit.No
		default:
			var err error
			answer, err = s.auth.Check(ctx, polkit.Request{Sender: c.sender, Action: action, Details: details(action, asked, who)})
			if err != nil {
				s.unanswered(c, action, err)
				answer, silent = polkit.No, true
			}
		}
		switch answer {
		case polkit.Yes:
			permissions[action] = allowed
		case polkit.Challenge:
			permissions[action] = authenticates
		default:
			permissions[action] = refused
		}
	}
	return []any{permissions}, nil
}
