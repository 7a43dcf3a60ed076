package units

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Inspection is a question about the layers of an instance: which of them hold a path, or what its upper changes in them. The answer takes
// CAP_SYS_ADMIN, which left4d does not have, and a walk through what a server wrote; left4-overlay gives it, in a unit of its own.
type Inspection struct {
	Instance string
	Lower    []string // as in a Plan
	Changes  bool     // what upper changes; else who holds Path
	Path     []byte   // in the form of CleanPath; bytes, because a name need not be UTF-8
	Max      int      // rows of an answer about changes
}

// Findings answer an Inspection.
type Findings struct {
	Upper   bool // there is one: Layer 0 of Found is upper then, and the first of Lower otherwise
	Found   []Found
	Changes []Change
	More    bool   // there are more than Max changes
	Error   string // "" = none
}

const (
	maxInspection = 1 << 20  // bytes: 500 layers and a path
	maxFindings   = 32 << 20 // bytes: Max changes, and the longest paths
	// MaxAnswer is how much a worker may answer with, in bytes: it is all in the memory of who has asked, and others wrote what it is about.
	MaxAnswer = 2 << 20

	inspectTimeout = 2 * time.Minute
	overlayMemory  = 256 << 20 // bytes
)

// Inspect answers a question itself.
func (l Layout) Inspect(ctx context.Context, q Inspection) (f Findings, err error) {
	if !ValidName(q.Instance) {
		return f, fmt.Errorf("%q is no name of an instance", q.Instance)
	}
	var fds descriptors
	defer fds.close()
	state, err := fds.keep(openAbs(l.State))
	if err != nil {
		return f, err
	}
	var layers []int
	upper, err := fds.keep(OpenBeneath(state, runtimeDir+"/"+q.Instance+"/"+upperName, unix.O_RDONLY|unix.O_DIRECTORY, 0))
	switch {
	case err == nil:
		f.Upper = true
		layers = append(layers, upper)
	case !errors.Is(err, unix.ENOENT):
		return f, err
	}
	for _, lower := range q.Lower {
		fd, err := fds.keep(openLower(state, lower))
		if err != nil {
			return f, err
		}
		layers = append(layers, fd)
	}
	if !q.Changes {
		f.Found, err = FindInLayers(layers, string(q.Path))
		return f, err
	}
	if f.Upper {
		f.Changes, f.More, err = ChangesIn(ctx, layers[0], layers[1:], q.Max)
		return f, err
	}
	return f, nil
}

// AnswerInspection reads a question as JSON and writes the answer: left4-overlay's side of Systemd.Inspect.
func (l Layout) AnswerInspection(ctx context.Context, in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(io.LimitReader(in, maxInspection))
	if err != nil {
		return err
	}
	var q Inspection
	if err := json.Unmarshal(text, &q); err != nil {
		return err
	}
	f, err := l.Inspect(ctx, q)
	if err != nil {
		f.Error = err.Error()
	}
	return json.NewEncoder(out).Encode(f)
}

var inspections atomic.Uint64

// Inspect has program, which is left4-overlay, answer a question.
func (s *Systemd) Inspect(ctx context.Context, program string, q Inspection) (Findings, error) {
	f, err := s.inspect(ctx, program, q)
	if err == nil && f.Error != "" {
		err = errors.New(f.Error)
	}
	if err != nil {
		return Findings{}, fmt.Errorf("cannot look at the files of %s: %w", q.Instance, err)
	}
	return f, nil
}

func (s *Systemd) inspect(ctx context.Context, program string, q Inspection) (f Findings, err error) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	question, err := json.Marshal(q)
	if err != nil {
		return f, err
	}
	unit := fmt.Sprintf("left4-inspect-%d-%d.service", os.Getpid(), inspections.Add(1))
	err = s.ask(ctx, unit, inspectProperties(program), question, workerStopTimeout, func(answer *json.Decoder) error {
		return answer.Decode(&f)
	})
	return f, err
}

// ask runs left4-overlay in a unit, with a question as its standard input, and has read take its standard output. When that fails the unit is
// stopped, and its end is waited for as long as stop.
func (s *Systemd) ask(ctx context.Context, unit string, properties []property, question []byte, stop time.Duration, read func(*json.Decoder) error) error {
	return s.askBriefly(ctx, unit, properties, question, maxFindings, stop, read)
}

// askBriefly is ask for an answer of at most so many bytes.
func (s *Systemd) askBriefly(ctx context.Context, unit string, properties []property, question []byte, most int64, stop time.Duration, read func(*json.Decoder) error) error {
	in, err := memoryFile(question)
	if err != nil {
		return err
	}
	defer in.Close()
	answer, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer answer.Close()
	var job dbus.ObjectPath
	err = s.callWithFDs(ctx, []int{int(in.Fd()), int(out.Fd())}, &job, "StartTransientUnit", unit, "fail", properties, []auxUnit{})
	out.Close()
	if err != nil {
		return busError(err)
	}
	// It may wait for us to read, so its end is not waited for. The reading ends with the answer, or when it has ended without one.
	late := context.AfterFunc(ctx, func() { answer.Close() })
	defer late()
	if err := read(json.NewDecoder(io.LimitReader(answer, most))); err != nil {
		// Also when it is the caller who has gone.
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stop)
		defer cancel()
		_ = s.Stop(stopping, unit)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errNoAnswer
	}
	return nil
}

var errNoAnswer = errors.New("left4-overlay gave no answer; journalctl -t left4-overlay may tell why")

// Consult has a worker, of which Command, Readable, Order and User count, read its order and answer with one JSON text of at
// most MaxAnswer bytes on its standard output. It can write to nothing and reach nothing: what it reads there may be hostile, and take it over.
func (s *Systemd) Consult(ctx context.Context, w Worker, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	unit := fmt.Sprintf("left4-consult-%d-%d.service", os.Getpid(), inspections.Add(1))
	err := s.askBriefly(ctx, unit, w.consultProperties(), w.Order, MaxAnswer, workerStopTimeout, func(d *json.Decoder) error { return d.Decode(answer) })
	if errors.Is(err, errNoAnswer) {
		name := filepath.Base(w.Command[0])
		err = fmt.Errorf("%s gave no answer; journalctl -t %s may tell why", name, name)
	}
	return err
}

func (w Worker) consultProperties() []property {
	list := overlayProperties(w.Command[0], w.Command[1:]...)
	set := func(name string, value any) { list = append(list, property{name, dbus.MakeVariant(value)}) }
	set("Description", "left4: a look into packages of files")
	set("TimeoutStartUSec", uint64(inspectTimeout.Microseconds()))
	set("User", w.User)
	set("OOMScoreAdjust", int32(500)) // rather than a game server
	set("CapabilityBoundingSet", uint64(0))
	set("AmbientCapabilities", uint64(0))
	set("PrivateUsers", true)
	set("TemporaryFileSystem", []mountOption{{stateDir, "ro,mode=0755"}, {"/tmp", "ro"}, {"/var/tmp", "ro"}})
	var views []bindMount
	for _, dir := range w.Readable {
		views = append(views, bindMount{dir, dir, false, 0})
	}
	if len(views) > 0 {
		set("BindReadOnlyPaths", views)
	}
	return list
}

// memoryFile is a file with a text in it, to be read from its beginning.
func memoryFile(text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("left4-question", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "question")
	if _, err = f.Write(text); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// inspectProperties are those of a process that may read everything below the state directory and change nothing.
func inspectProperties(program string) []property {
	list := overlayProperties(program, "inspect")
	set := func(name string, value any) { list = append(list, property{name, dbus.MakeVariant(value)}) }
	set("Description", "left4: a look at the files of a server")
	set("TimeoutStartUSec", uint64(inspectTimeout.Microseconds()))
	// trusted.* attributes, and directories that a server has closed.
	set("CapabilityBoundingSet", uint64(1<<unix.CAP_SYS_ADMIN|1<<unix.CAP_DAC_READ_SEARCH))
	return list
}

// overlayProperties are those of left4-overlay in a unit that left4d makes. What is set again after them counts.
func overlayProperties(program string, args ...string) []property {
	var list []property
	set := func(name string, value any) { list = append(list, property{name, dbus.MakeVariant(value)}) }

	set("Slice", "left4-build.slice")
	set("Type", "oneshot")
	set("CollectMode", "inactive-or-failed")
	set("ExecStart", []execCommand{{program, append([]string{program}, args...), false}})
	set("StandardInputFileDescriptor", dbus.UnixFDIndex(0))
	set("StandardOutputFileDescriptor", dbus.UnixFDIndex(1))
	// The descriptor counts; but where both of these say the same, as they do by default, errors go where the output goes.
	set("StandardOutput", "null")
	set("StandardError", "journal")
	set("SyslogLevelPrefix", false) // names of files may be in it
	set("MemoryMax", uint64(overlayMemory))
	set("MemorySwapMax", uint64(0))
	set("TasksMax", uint64(workerTasksMax))

	set("NoNewPrivileges", true)
	set("ProtectSystem", "strict")
	set("ProtectHome", "yes")
	set("InaccessiblePaths", []string{"-/run/dbus", "-/run/systemd/private", "-/dev/shm"})
	set("NoExecPaths", []string{"/"})
	set("ExecPaths", []string{"/usr", "-/lib", "-/lib64", filepath.Dir(program)})
	list = append(list, confined()...)
	set("SystemCallFilter", allowList{true, []string{"@system-service"}})
	set("SystemCallFilter", allowList{false, []string{"@privileged", "@resources"}})
	set("SystemCallErrorNumber", int32(unix.EPERM))
	return list
}
