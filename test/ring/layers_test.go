package ring

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// layer makes an overlay with these files, by path; the revision that has them is its second.
func (p play) layer(name string, files map[string]string) {
	p.t.Helper()
	p.ctl("overlay", "create", name)
	p.revise(name, files)
}

// revise makes a revision of an overlay that holds these files and nothing else.
func (p play) revise(name string, files map[string]string) {
	p.t.Helper()
	p.RunInput(p.t, bytes.NewReader(archive(files)), "sh", "-ec", `cat >/root/layer.tar; left4ctl overlay import "$1" /root/layer.tar`, "sh", name)
}

// archive is a tar file with these files.
func archive(files map[string]string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))})
		w.Write([]byte(files[name]))
	}
	w.Close()
	return b.Bytes()
}

// importing is an import that is under way for as long as the test does not end its stream.
type importing struct {
	job    dbus.ObjectPath
	stream *os.File
}

// importOverlay has left4d import what the test will write, with these options.
func (p play) importOverlay(name string, options map[string]dbus.Variant) importing {
	p.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		p.t.Fatalf("%v", err)
	}
	p.t.Cleanup(func() { w.Close() })
	call := p.Bus(p.t).Object(service, "/me/left4").Call(managerI+".ImportOverlay", 0, name, dbus.UnixFD(r.Fd()), options)
	r.Close()
	im := importing{stream: w}
	if err := call.Store(&im.job); err != nil {
		p.t.Fatalf("cannot import: %v", err)
	}
	return im
}

func merging() map[string]dbus.Variant {
	return map[string]dbus.Variant{"merge": dbus.MakeVariant(true)}
}

// waitStatus waits until a job tells that it has come to a step.
func (p play) waitStatus(job dbus.ObjectPath, step string) {
	p.t.Helper()
	changes := p.Signals(p.t, dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"))
	for !strings.HasPrefix(p.job(job, "Status"), step) {
		changes.Wait(p.t, string(job)+" at "+step, func(s *dbus.Signal) bool { return s.Path == job })
	}
}

func (p play) job(job dbus.ObjectPath, property string) string {
	p.t.Helper()
	return value(p.Run(p.t, "busctl", "get-property", service, string(job), "me.left4.Job", property))
}

// ended waits for the end of a job and returns its result.
func (s *Signals) ended(t TB, job dbus.ObjectPath) string {
	t.Helper()
	end := s.Wait(t, "the end of "+string(job), func(s *dbus.Signal) bool { return s.Name == managerI+".JobRemoved" && s.Body[1] == job })
	return end.Body[4].(string)
}

// jobsEnd are the ends of jobs from now on.
func (p play) jobsEnd() *Signals {
	p.t.Helper()
	return p.Signals(p.t, dbus.WithMatchInterface(managerI), dbus.WithMatchMember("JobRemoved"))
}

// waitFor waits until a directory holds these names and no other. What nobody needs goes by jobs, whose ends are those
// from before it became spare.
func (p play) waitFor(ends *Signals, dir string, names ...string) {
	p.t.Helper()
	for !slices.Equal(p.list(dir), names) {
		ends.Wait(p.t, dir+" with "+strings.Join(names, ", "), jobEnded("collect"))
	}
}

// list are the names in a directory.
func (p play) list(dir string) []string {
	p.t.Helper()
	return strings.Fields(p.Run(p.t, "ls", "-A", dir))
}

// overlayDir is where the revisions of an overlay lie.
func (p play) overlayDir(name string) string {
	p.t.Helper()
	return "/var/lib/left4/overlays/" + p.ofOverlay(name, "Id")
}

// answer runs left4ctl --json, which may fail, and decodes what it printed.
func answer[T any](p play, args ...string) T {
	p.t.Helper()
	var all T
	out := p.Try(append(append([]string{"left4ctl"}, args...), "--json")...)
	if err := json.Unmarshal([]byte(out.Out), &all); err != nil {
		p.t.Fatalf("%v: %v\n%s%s", args, err, out.Out, out.Err)
	}
	return all
}

// found is a layer that left4ctl which tells of.
type found struct {
	Layer, Kind  string
	Hidden, Wins bool
}

// conflict is a path that left4ctl conflicts tells of.
type conflict struct {
	Path     string
	Overlays []string
}

// change is what left4ctl diff tells of one path.
type change struct {
	Path, Change string
	Size         uint64
}

// refused runs left4ctl, which must fail with these words.
func (p play) refused(t *testing.T, args []string, words ...string) {
	t.Helper()
	r := p.Try(append([]string{"left4ctl"}, args...)...)
	for _, word := range words {
		if r.Code != 1 || !strings.Contains(r.Err, word) {
			t.Errorf("left4ctl %s: %+v, want %q", strings.Join(args, " "), r, word)
		}
	}
}
