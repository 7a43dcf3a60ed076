package clienttest

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/client"
	"left4.me/left4/dbus/names"
)

// overlay is an overlay of the fake. It holds its files in memory, and keeps revisions as left4d does but for those
// that an instance still needs.
type overlay struct {
	id        uint32
	kind      string
	keep      uint32
	items     []string
	script    string
	found     []itemRow // what the items are
	current   uint32
	last      uint32
	revisions []*revision
	override  map[string]any // properties served in place of what they are
}

type revision struct {
	id    uint32
	files map[string]file // by path, each with the directories above it
}

type file struct {
	kind string // file, directory, link
	mode int64
	data []byte // of a link, where it leads
}

type itemRow struct {
	ID, Title, File, State, Cause string
	Bytes, Updated                uint64
}

type revisionRow struct {
	ID                      uint32
	Published, Files, Bytes uint64
}

// AddOverlay makes a files overlay whose first revision holds these files, by path.
func (d *Daemon) AddOverlay(name string, files map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.tell()
	o := d.addOverlay(name, "files", 1)
	for name, text := range files {
		o.at(0).put(name, file{"file", 0o644, []byte(text)})
	}
}

func (d *Daemon) addOverlay(name, kind string, keep uint32) *overlay {
	d.lastOverlay++
	o := &overlay{id: d.lastOverlay, kind: kind, keep: keep, override: map[string]any{}}
	o.publish(map[string]file{})
	d.overlays[name] = o
	return o
}

// AddWorkshopOverlay makes an overlay of type workshop, which was built of these items.
func (d *Daemon) AddWorkshopOverlay(name string, items ...client.OverlayItem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.tell()
	o := d.addOverlay(name, "workshop", 1)
	for _, i := range items {
		o.items = append(o.items, i.ID)
		row := itemRow{i.ID, i.Title, i.File, i.State, i.Cause, i.Size, 0}
		if !i.Updated.IsZero() {
			row.Updated = uint64(i.Updated.UnixMicro())
		}
		o.found = append(o.found, row)
	}
}

// PublishOverlay makes a new revision with these files put over those of the current one, as somebody else would.
func (d *Daemon) PublishOverlay(name string, files map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.tell()
	next := revision{files: maps.Clone(d.overlays[name].at(0).files)}
	for name, text := range files {
		next.put(name, file{"file", 0o644, []byte(text)})
	}
	d.overlays[name].publish(next.files)
}

// SetOverlay sets properties of an overlay, whatever is true.
func (d *Daemon) SetOverlay(name string, properties map[string]any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.tell()
	maps.Copy(d.overlays[name].override, properties)
}

// OverlayFiles returns what the current revision holds, one line for each entry.
func (d *Daemon) OverlayFiles(name string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	files := d.overlays[name].at(0).files
	var list []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		list = append(list, strings.TrimSpace(fmt.Sprintf("%s %04o %s %s", f.kind, f.mode, client.FileText(name), client.FileText(string(f.data)))))
	}
	return list
}

func (r *revision) put(name string, f file) {
	r.files[name] = f
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if r.files[dir].kind != "directory" {
			r.files[dir] = file{kind: "directory", mode: 0o755}
		}
	}
}

// remove takes a path away, with all below it.
func (r *revision) remove(name string) {
	maps.DeleteFunc(r.files, func(have string, _ file) bool { return have == name || strings.HasPrefix(have, name+"/") })
}

func (r *revision) row() revisionRow {
	row := revisionRow{ID: r.id, Published: 1700000000000000 + uint64(r.id)*60e6}
	for _, f := range r.files {
		if f.kind != "directory" {
			row.Files++
			row.Bytes += uint64(len(f.data))
		}
	}
	return row
}

// at is a revision by its number, 0 for the current one, or nil.
func (o *overlay) at(id uint32) *revision {
	for _, r := range o.revisions {
		if r.id == id || id == 0 && r.id == o.current {
			return r
		}
	}
	return nil
}

func (o *overlay) publish(files map[string]file) {
	o.last++
	o.revisions = append(o.revisions, &revision{o.last, files})
	o.choose(o.last)
}

// choose makes a revision the current one. Of the others, as many stay as are to be kept of the next older ones.
func (o *overlay) choose(id uint32) {
	o.current = id
	at := slices.IndexFunc(o.revisions, func(r *revision) bool { return r.id == id })
	o.revisions = slices.Clone(o.revisions[max(0, at-int(o.keep)) : at+1])
}

func (o *overlay) properties(name string) map[string]any {
	rows := []revisionRow{}
	for _, r := range o.revisions {
		rows = append(rows, r.row())
	}
	current := o.at(0).row()
	p := map[string]any{
		"Name": name, "Id": o.id, "Type": o.kind, "Owner": uint32(0), "OwnerName": "root", "State": "ready", "Cause": "", "Revision": o.current,
		"Revisions": rows, "Files": current.Files, "Size": current.Bytes,
	}
	maps.Copy(p, o.override)
	return p
}

func noSuchOverlay(name string) *dbus.Error {
	return dbus.NewError(names.Error+"NoSuchOverlay", []any{"there is no overlay " + name})
}

func invalid(format string, args ...any) *dbus.Error {
	return dbus.NewError(names.Error+"InvalidArgument", []any{fmt.Sprintf(format, args...)})
}

// usersOf are the instances and blueprints that name an overlay, as left4d tells them.
func (d *Daemon) usersOf(overlay string) []string {
	var users []string
	uses := func(config map[string]dbus.Variant) bool {
		return slices.ContainsFunc(overlaysOf(config), func(o client.Overlay) bool { return o.Name == overlay })
	}
	for _, name := range slices.Sorted(maps.Keys(d.blueprints)) {
		if uses(d.blueprints[name]) {
			users = append(users, "blueprint "+name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.instances)) {
		if uses(d.instances[name].Config) {
			users = append(users, "instance "+name)
		}
	}
	return users
}

func (m *manager) CreateOverlay(msg dbus.Message, name, kind string, config, o options) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.called(msg); err != nil {
		return "", err
	}
	if d.overlays[name] != nil {
		return "", dbus.NewError(names.Error+"OverlayExists", []any{"there is an overlay " + name + " already"})
	}
	keep := uint32(1)
	if v, ok := config["keep"]; ok {
		keep = v.Value().(uint32)
	}
	defer d.tell()
	made := d.addOverlay(name, kind, keep)
	if v, ok := config["items"]; ok {
		made.items = v.Value().([]string)
	}
	if v, ok := config["script"]; ok {
		made.script = v.Value().(string)
	}
	return names.OverlayPath(name), nil
}

func (m *manager) UpdateOverlay(msg dbus.Message, name, kind string, config, o options) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.called(msg); err != nil {
		return "", err
	}
	one := d.overlays[name]
	if one == nil {
		return "", noSuchOverlay(name)
	}
	defer d.tell()
	if v, ok := config["keep"]; ok {
		one.keep = v.Value().(uint32)
	}
	if v, ok := config["items"]; ok {
		one.items = v.Value().([]string)
	}
	if v, ok := config["script"]; ok {
		one.script = v.Value().(string)
	}
	id := one.current
	if v, ok := o["revision"]; ok {
		id = v.Value().(uint32)
	}
	if one.at(id) == nil {
		return "", invalid("cannot update overlay %s: there is no revision %d on disk", name, id)
	}
	one.choose(id)
	return names.OverlayPath(name), nil
}

func (m *manager) ImportOverlay(msg dbus.Message, name string, stream dbus.UnixFD, o options) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	one := d.overlays[name]
	d.mu.Unlock()
	f := os.NewFile(uintptr(stream), "stream")
	if one == nil {
		f.Close()
		d.mu.Lock()
		defer d.mu.Unlock()
		if err := d.called(msg); err != nil {
			return "", err
		}
		return "", noSuchOverlay(name)
	}
	return m.begin(msg, "import-overlay", name, o, f, func(got map[string]file) string {
		if base, ok := o["base"]; ok && base.Value().(uint32) != one.current {
			return fmt.Sprintf("changed meanwhile: revision is %d, not %d", one.current, base.Value().(uint32))
		}
		next := revision{files: map[string]file{}}
		if merge, ok := o["merge"]; ok && merge.Value().(bool) {
			next.files = maps.Clone(one.at(0).files)
		}
		if remove, ok := o["remove"]; ok {
			for _, text := range remove.Value().([]string) {
				name, err := client.FileName(text)
				if err != nil {
					return err.Error()
				}
				if next.files[path.Clean(name)].kind == "" {
					return fmt.Sprintf("%q: no such file or directory", text)
				}
				next.remove(path.Clean(name))
			}
		}
		if into, ok := o["into"]; ok {
			below := map[string]file{}
			for name, f := range got {
				below[path.Join(into.Value().(string), name)] = f
			}
			got = below
		}
		for _, name := range slices.Sorted(maps.Keys(got)) {
			switch was := next.files[name].kind; {
			case was == "directory" && got[name].kind != "directory":
				return fmt.Sprintf("%q: a file cannot take the place of a directory", client.FileText(name))
			case was != "" && was != "directory" && got[name].kind == "directory":
				return fmt.Sprintf("%q: a directory cannot take the place of a file", client.FileText(name))
			case was == "directory":
				continue // it stays as it is
			}
			next.put(name, got[name])
		}
		one.publish(next.files)
		return ""
	})
}

func (m *manager) BuildOverlay(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	one := d.overlays[name]
	d.mu.Unlock()
	if one == nil {
		return "", noSuchOverlay(name)
	}
	return m.begin(msg, "build-overlay", name, o, nil, nil)
}

func (m *manager) DeleteOverlay(msg dbus.Message, name string, o options) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	users := d.usersOf(name)
	d.mu.Unlock()
	if len(users) > 0 {
		return "", dbus.NewError(names.Error+"InUse", []any{fmt.Sprintf("cannot delete overlay %s: it is used by %s", name, strings.Join(users, ", "))})
	}
	return m.begin(msg, "delete-overlay", name, o, nil, func(map[string]file) string {
		delete(d.overlays, name)
		return ""
	})
}

func (m *manager) GetOverlay(name string) (dbus.ObjectPath, *dbus.Error) {
	d := m.daemon()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failures["GetOverlay"]; err != nil {
		return "", err
	}
	if d.overlays[name] == nil {
		return "", noSuchOverlay(name)
	}
	return names.OverlayPath(name), nil
}

// overlayFace is me.left4.Overlay.
type overlayFace Daemon

func (f *overlayFace) of(msg dbus.Message) *overlay {
	name, _ := names.OverlayName(msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath))
	return f.overlays[name]
}

func (f *overlayFace) GetConfig(msg dbus.Message) (map[string]dbus.Variant, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failures["GetConfig"]; err != nil {
		return nil, err
	}
	// As always without what is the default.
	config := map[string]dbus.Variant{}
	if o := f.of(msg); o.keep != 1 {
		config["keep"] = dbus.MakeVariant(o.keep)
	}
	if o := f.of(msg); len(o.items) > 0 {
		config["items"] = dbus.MakeVariant(o.items)
	}
	if o := f.of(msg); o.script != "" {
		config["script"] = dbus.MakeVariant(o.script)
	}
	return config, nil
}

func (f *overlayFace) ListItems(msg dbus.Message, o options) ([]itemRow, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failures["ListItems"]; err != nil {
		return nil, err
	}
	if one := f.of(msg); one.kind != "workshop" {
		return nil, invalid("the overlay has no items: it is of type %s, not workshop", one.kind)
	}
	return f.of(msg).found, nil
}

type fileRow struct {
	Name, Kind      string
	Bytes, Modified uint64
}

// at finds the revision that the options name, and what is there under a path.
func (f *overlayFace) at(msg dbus.Message, text string, o options) (r *revision, name string, err *dbus.Error) {
	name, bad := client.FileName(text)
	if bad != nil {
		return nil, "", invalid("path %q is not allowed: %v", text, bad)
	}
	id := uint32(0)
	if v, ok := o["revision"]; ok {
		id = v.Value().(uint32)
	}
	if r = f.of(msg).at(id); r == nil {
		return nil, "", invalid("there is no revision %d", id)
	}
	if name = strings.Trim(path.Clean("/"+name), "/"); name != "" && r.files[name].kind == "" {
		return nil, "", invalid("there is no %s", text)
	}
	return r, name, nil
}

func (f *overlayFace) ListFiles(msg dbus.Message, text string, o options) ([]fileRow, bool, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failures["ListFiles"]; err != nil {
		return nil, false, err
	}
	r, dir, err := f.at(msg, text, o)
	if err != nil {
		return nil, false, err
	}
	if dir != "" && r.files[dir].kind != "directory" {
		return nil, false, invalid("%s is no directory", text)
	}
	rows := []fileRow{}
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		if at := path.Dir(name); at == dir || at == "." && dir == "" {
			one := r.files[name]
			row := fileRow{client.FileText(path.Base(name)), one.kind, uint64(len(one.data)), r.row().Published}
			rows = append(rows, row)
		}
	}
	return rows, f.more, nil
}

func (f *overlayFace) ListMaps(msg dbus.Message, o options) ([]client.Map, []client.Unread, bool, *dbus.Error) {
	name, _ := names.OverlayName(msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath))
	return (*Daemon)(f).maps(name)
}

func (f *overlayFace) OpenFile(msg dbus.Message, text string, o options) (dbus.UnixFD, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failures["OpenFile"]; err != nil {
		return 0, err
	}
	r, name, err := f.at(msg, text, o)
	if err != nil {
		return 0, err
	}
	if r.files[name].kind != "file" {
		return 0, invalid("%s is no file", text)
	}
	// It is closed with the test: it must be open until the answer is on its way.
	out, bad := os.CreateTemp(f.t.TempDir(), "")
	if bad == nil {
		f.t.Cleanup(func() {
			f.mu.Lock() // behind the call that gave it out
			defer f.mu.Unlock()
			out.Close()
		})
		_, bad = out.Write(r.files[name].data)
	}
	if bad == nil {
		bad = out.Chmod(os.FileMode(r.files[name].mode))
	}
	if bad == nil {
		_, bad = out.Seek(0, 0)
	}
	if bad != nil {
		return 0, dbus.MakeFailedError(bad)
	}
	return dbus.UnixFD(out.Fd()), nil
}
