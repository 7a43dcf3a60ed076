package ctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

// hostTime is how long one of several hosts may take to be reached, and again to answer: the others are held up by it.
const hostTime = 15 * time.Second

func hostFlag(v *invocation, fs *pflag.FlagSet) {
	fs.StringArrayVarP(&v.hosts, "host", "H", nil, "do it on another `HOST`, through ssh: [USER@]HOST[:PORT]")
	fs.SetAnnotation("host", repeatable, []string{})
}

// checkHosts refuses hosts that are none, and more of them than the verb takes. One given twice is one.
func (v *invocation) checkHosts() error {
	var hosts []string
	seen := map[string]bool{}
	for _, host := range v.hosts {
		if _, err := (client.Remote{Host: host}).Command(); err != nil {
			return usagef("--host: %v", err)
		}
		if !seen[host] {
			hosts = append(hosts, host)
		}
		seen[host] = true
	}
	if len(hosts) > 1 && !v.command.hosts {
		return usagef("%s takes one --host only", v.command.name)
	}
	v.hosts = hosts
	return nil
}

// host is the other machine that all this is about, "" where it is this one or several.
func (v *invocation) host() string {
	if len(v.hosts) == 1 {
		return v.hosts[0]
	}
	return ""
}

// hostCommand is the command line that runs a program on the machine that all this is about, as it is where that is this
// one.
func (v *invocation) hostCommand(args ...string) ([]string, error) {
	if v.host() == "" {
		return args, nil
	}
	command, err := client.Remote{Host: v.host()}.Command(args...)
	if err != nil {
		return nil, err
	}
	return slices.Insert(command, 1, "-n"), nil // what is left4ctl's to read is not ssh's
}

// reach connects to the one machine that all this is about.
func (v *invocation) reach() (*client.Client, error) {
	if v.host() == "" {
		return v.dial(v.ctx)
	}
	c, err := v.dialHost(v.ctx, client.Remote{Host: v.host(), Stderr: &sshWords{v}})
	if err != nil && v.ctx.Err() != nil {
		err = fmt.Errorf("cannot reach %s: interrupted", v.host())
	}
	return c, err
}

// sshWords prints what ssh says. It may come from the other side, as a banner does.
type sshWords struct{ v *invocation }

func (w *sshWords) Write(p []byte) (int, error) {
	w.v.mu.Lock()
	defer w.v.mu.Unlock()
	w.v.board.line(w.v.stderr, clean(strings.TrimSuffix(string(p), "\n")))
	return len(p), nil
}

// filesDoNotPass tells that a verb cannot work through ssh, and what does.
func (v *invocation) filesDoNotPass() error {
	v.complain(fmt.Sprintf("cannot %s over ssh: files do not pass", v.command.name))
	v.hint("run it there: left4ctl " + v.command.name + " …")
	return exitCode(exitFailure)
}

// onHost makes the commands in a hint those for a host, where it is another one.
func onHost(host, hint string) string {
	argv, err := client.Remote{Host: host}.Command()
	if err != nil || strings.HasPrefix(hint, "left4ctl help") {
		return hint // the host is none, "" mostly
	}
	ssh := slices.DeleteFunc(argv, func(word string) bool { return word == "-xT" || word == "--" })
	there := strings.Join(ssh, " ") + " "
	var pairs []string
	for _, c := range verbs() {
		if c.files {
			run := "left4ctl " + c.name + " "
			pairs = append(pairs, run, strings.Replace(there, "ssh ", "ssh -t ", 1)+run)
		}
	}
	return strings.NewReplacer(append(pairs,
		"left4ctl ", "left4ctl -H "+host+" ",
		"systemctl ", "systemctl -H "+host+" ",
		"journalctl ", there+"journalctl ")...).Replace(hint)
}

// hosted is an instance, and the host that it is on, "" where all this is about one machine only.
type hosted struct {
	client.Instance
	host string
	job  *client.JobInfo // that is at work on it
}

// withHosts puts a column of hosts in front of a table, where it is about several.
func (v *invocation) withHosts(hosts, headings []string, rows [][]string, paint painter) ([]string, [][]string, painter) {
	if len(v.hosts) < 2 {
		return headings, rows, paint
	}
	for n := range rows {
		rows[n] = slices.Insert(rows[n], 0, hosts[n])
	}
	return slices.Insert(headings, 0, "HOST"), rows, func(row, column int) string {
		if column == 0 || paint == nil {
			return ""
		}
		return paint(row, column-1)
	}
}

// told is what one of several hosts answered.
type told[T any] struct {
	host  string // "" where all this is about one machine only
	value T
}

// askHosts asks all hosts the same, side by side, or the one machine that all this is about, and returns the answers in
// the order of the hosts' names. What a host does not answer has been told, and is the error beside the answers of the
// others; verb and name are for that.
func askHosts[T any](v *invocation, verb, name string, ask func(context.Context, *client.Client) (T, error)) ([]told[T], error) {
	if len(v.hosts) <= 1 {
		c, err := v.connect()
		if err != nil {
			return nil, err
		}
		value, err := ask(v.ctx, c)
		if err != nil {
			return nil, v.failed(verb, name, err)
		}
		return []told[T]{{"", value}}, nil
	}
	hosts := slices.Sorted(slices.Values(v.hosts))
	values, errs := make([]T, len(hosts)), make([]error, len(hosts))
	var all sync.WaitGroup
	for n, host := range hosts {
		all.Add(1)
		go func() {
			defer all.Done()
			c, err := v.reachOne(host)
			if err != nil {
				errs[n] = err
				return
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(v.ctx, v.hostTime)
			defer cancel()
			if values[n], err = ask(ctx, c); err != nil {
				errs[n] = fmt.Errorf("%s: %s", host, cannot(verb, name, v.plainly(err)))
			}
		}()
	}
	all.Wait()
	var answers []told[T]
	var result error
	for n, host := range hosts {
		if errs[n] == nil {
			answers = append(answers, told[T]{host, values[n]})
			continue
		}
		v.complain(errs[n].Error())
		result = exitCode(exitFailure)
	}
	return answers, result
}

// reachAll connects to several hosts side by side. Those that cannot be reached have been told, and are the error.
func (v *invocation) reachAll() (hosts []string, clients []*client.Client, result error) {
	all := slices.Sorted(slices.Values(v.hosts))
	reached, errs := make([]*client.Client, len(all)), make([]error, len(all))
	var wait sync.WaitGroup
	for n, host := range all {
		wait.Add(1)
		go func() {
			defer wait.Done()
			reached[n], errs[n] = v.reachOne(host)
		}()
	}
	wait.Wait()
	for n, host := range all {
		if errs[n] != nil {
			v.complain(errs[n].Error())
			result = exitCode(exitFailure)
			continue
		}
		hosts, clients = append(hosts, host), append(clients, reached[n])
	}
	return hosts, clients, result
}

// reachOne connects to one of several hosts. There ssh asks nobody: who would know which of them asks?
func (v *invocation) reachOne(host string) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(v.ctx, v.hostTime)
	defer cancel()
	c, err := v.dialHost(ctx, client.Remote{Host: host, Batch: true})
	switch {
	case v.ctx.Err() != nil && err != nil:
		return nil, fmt.Errorf("cannot reach %s: interrupted", host)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("cannot reach %s: no connection within %v", host, v.hostTime)
	case err != nil:
		return nil, err
	}
	c.NoInteraction = true
	return c, nil
}

// plainly says an error of the bus or of a context in words of ours.
func (v *invocation) plainly(err error) error {
	switch {
	case v.ctx.Err() != nil && errors.Is(err, v.ctx.Err()):
		return errors.New("interrupted")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %v", v.hostTime)
	case client.IsUnavailable(err):
		return &unanswered{err}
	}
	return err
}
