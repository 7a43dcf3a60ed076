package client

import "context"

// How bad a problem is.
const (
	SeverityError   = "error"
	SeverityWarning = "warning"
	SeverityNotice  = "notice" // none, but good to know
)

// Problem is something that is not as left4d has left it, or would want it.
type Problem struct {
	Kind     string
	Name     string // of what it is about
	Severity string
	What     string // in one line, for people
	Repair   string // what a repair would do; empty where only a person can mend it
}

// ID names the problem before RepairProblems.
func (p Problem) ID() string {
	if p.Name == "" {
		return p.Kind
	}
	return p.Kind + "/" + p.Name
}

// ListProblems has left4d look for problems. Error: ErrAccessDenied.
func (c *Client) ListProblems(ctx context.Context) ([]Problem, error) {
	var list []Problem
	err := c.manager(ctx, "ListProblems", []any{noOptions()}, &list)
	return list, err
}

// RepairProblems repairs those problems that are named, by their ID or all of a kind, or all that can be repaired where
// none is. The job is skipped where there is nothing to repair. Errors: ErrInvalidArgument, ErrAccessDenied, ErrBusy,
// ErrQuotaExceeded.
func (c *Client) RepairProblems(ctx context.Context, problems []string, o JobOptions) (*Job, error) {
	if problems == nil {
		problems = []string{}
	}
	return c.job(ctx, "RepairProblems", problems, o.variants())
}
