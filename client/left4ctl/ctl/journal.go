package ctl

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// The journal is read by journalctl, which knows its files, its rights and its namespaces. What stands in it was written
// by others: game servers, and whoever else may log. Only fields that begin with _ are certain.

var errNoJournalctl = errors.New("journalctl is not installed")

// journalctl is the command with its arguments, each of which is one word that no shell sees as anything else.
func (v *invocation) journalctl(args ...string) ([]string, error) {
	command, err := v.hostCommand(append([]string{"journalctl"}, args...)...)
	if err != nil {
		return nil, err
	}
	program, err := exec.LookPath(command[0])
	switch {
	case err != nil && v.host() != "":
		return nil, errors.New("ssh is not installed")
	case err != nil:
		return nil, errNoJournalctl
	}
	command[0] = program
	return command, nil
}

// entry is what journalctl -o json tells of one entry, without the fields that it leaves out because they are too big.
type entry map[string]string

// parseEntry reads one line of journalctl -o json. A value is text; an array of numbers, its bytes, where that would be
// no printable text; null where it is too big; and an array of these where the entry has the field more than once, of
// which the first counts.
func parseEntry(line []byte) (entry, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(line, &raw); err != nil {
		return nil, err
	}
	e := entry{}
	for name, value := range raw {
		text, there, err := parseField(value, true)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if there {
			e[name] = text
		}
	}
	return e, nil
}

func parseField(value json.RawMessage, several bool) (text string, there bool, err error) {
	switch {
	case bytes.Equal(value, []byte("null")):
		return "", false, nil
	case value[0] == '"':
		err := json.Unmarshal(value, &text)
		return text, true, err
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(value, &elements); err != nil {
		return "", false, fmt.Errorf("%.20q is neither text nor bytes", value)
	}
	if len(elements) > 0 && several && (elements[0][0] < '0' || elements[0][0] > '9') {
		return parseField(elements[0], false)
	}
	b := make([]byte, len(elements))
	for n, e := range elements {
		if err := json.Unmarshal(e, &b[n]); err != nil {
			return "", false, err
		}
	}
	return string(b), true, nil
}

// time is when the journal got the entry.
func (e entry) time() time.Time {
	var usec int64
	if _, err := fmt.Sscan(e["__REALTIME_TIMESTAMP"], &usec); err != nil || usec <= 0 {
		return time.Time{}
	}
	return time.UnixMicro(usec)
}

// maxEntry bounds a line of JSON. journalctl bounds each value itself.
const maxEntry = 1 << 20

// errJournalRights is the end of reading a journal that we may not see, or not all of.
var errJournalRights = errors.New("not all of the journal may be read")

// readJournal hands each entry to f, until there is no more, f fails, or ctx ends. With errJournalRights what could be
// read was handed on.
func (v *invocation) readJournal(ctx context.Context, args []string, f func(entry) error) error {
	read := 0
	complaints, err := v.runJournal(ctx, append([]string{"-o", "json"}, args...), func(e entry) error {
		read++
		return f(e)
	})
	if err == nil && read == 0 {
		// As JSON it does not tell who has no rights but to a journal of their own.
		complaints, err = v.runJournal(ctx, []string{"--lines=0"}, f)
	}
	if strings.Contains(complaints, "insufficient permissions") || strings.Contains(complaints, "not seeing messages") {
		return errJournalRights
	}
	return err
}

// runJournal runs journalctl, and returns also what it has to say beside the entries.
func (v *invocation) runJournal(ctx context.Context, args []string, f func(entry) error) (complaints string, err error) {
	command, err := v.journalctl(args...)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var said cappedBuffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", plain(err)
	}
	in := bufio.NewReaderSize(out, maxEntry)
	var failed error
	for failed == nil {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = in.ReadSlice('\n')
			}
			continue // nobody here wrote it
		}
		// "-- No entries --" is none.
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] == '{' {
			var e entry
			if e, failed = parseEntry(line); failed == nil {
				failed = f(e)
			}
		}
		if err != nil {
			break
		}
	}
	ended := ctx.Err()
	if failed != nil {
		cancel()
		io.Copy(io.Discard, in)
	}
	err = cmd.Wait()
	text := strings.TrimSpace(said.String())
	switch {
	case failed != nil:
		return "", failed
	case ended != nil:
		return "", ended
	case err != nil && text != "":
		lines := strings.Split(text, "\n")
		err = fmt.Errorf("journalctl: %s", lines[len(lines)-1])
	case err != nil:
		err = fmt.Errorf("journalctl: %w", err)
	}
	return text, err
}

// journalHint is what to do to see the journal.
func (v *invocation) journalHint() string {
	if v.host() != "" {
		return "connect as somebody who may see all of the journal, as -H root@…, or ask to be in group systemd-journal or adm there"
	}
	return "run it with sudo, or ask to be in group systemd-journal or adm, to see all of the journal"
}

// cappedBuffer keeps the beginning of what is written to it.
type cappedBuffer struct{ b bytes.Buffer }

func (c *cappedBuffer) Write(p []byte) (int, error) {
	c.b.Write(p[:min(len(p), max(0, 64<<10-c.b.Len()))])
	return len(p), nil
}

func (c *cappedBuffer) String() string { return c.b.String() }

// logLine is an entry as journalctl and systemctl print it.
func logLine(e entry) string {
	who := e["SYSLOG_IDENTIFIER"]
	if who == "" {
		who = e["_COMM"]
	}
	pid := e["_PID"]
	if pid == "" {
		pid = e["SYSLOG_PID"]
	}
	if pid != "" {
		who += "[" + pid + "]"
	}
	text, there := e["MESSAGE"]
	if !there {
		text = "[blob data]"
	}
	return fmt.Sprintf("%s %s %s: %s", e.time().Local().Format("Jan 02 15:04:05"), e["_HOSTNAME"], who, strings.TrimRight(text, " \r\n"))
}
