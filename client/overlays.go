package client

import (
	"context"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// Paths and file names of overlays and servers are texts here, in both directions: as they are where they are UTF-8,
// but a backslash is \\, and a control character, a line separator or a byte that is no UTF-8 is \xNN for each byte.

// OverlayInfo is all that left4d tells anybody of one overlay.
type OverlayInfo struct {
	Name      string
	ID        uint32 // never given out again
	Type      string // files, script, workshop
	Owner     uint32 // uid of who created it
	OwnerName string // the login name of that user on left4d's machine; empty where there was none
	State     string // ready, building, failed, empty
	Cause     string // why State is what it is, for people; may be empty
	Revision  uint32 // the one that the next start of an instance mounts, 0 while there is none
	Revisions []Revision
	Files     uint64 // of the current revision
	Size      uint64 // bytes in them
	Object    dbus.ObjectPath
}

// Revision is one state of an overlay's files or of the game that is on disk. It never changes.
type Revision struct {
	ID        uint32
	Published time.Time
	Files     uint64
	Bytes     uint64
}

// OverlayConfig is the definition of an overlay, or a part of it: what is nil is not sent.
type OverlayConfig struct {
	Keep *uint32 // how many revisions older than the current one are kept for a rollback
	// Items are, of type workshop, the ids of items and collections, or the addresses of their pages.
	Items []string
	// Script is, of type script, what bash runs when the overlay is built.
	Script *string
}

// BuildOptions are the options of BuildOverlay.
type BuildOptions struct {
	// OnTop has a build of type script begin with the files of the current revision, and not with none.
	OnTop bool
	// Timeout is as in JobOptions.
	Timeout time.Duration
}

// ImportOptions are the options of ImportOverlay.
type ImportOptions struct {
	// Size is the stream's length in bytes, for the progress; 0 where it is not known.
	Size uint64
	// Merge makes the new revision of the current one, with what the stream holds put over it. Otherwise what the
	// stream holds is all of the new revision.
	Merge bool
	// Remove are paths that a merged revision does not take over from the current one.
	Remove []string
	// Base makes the import fail unless that revision is the current one when its job runs; 0 is any.
	Base uint32
	// Into is the directory of the overlay that the stream is unpacked into; "" is its top.
	Into string
	// FileName is what the stream is called (FileText): a VPK file, which is not unpacked, keeps that name. "" is the overlay's.
	FileName string
	// Timeout is as in JobOptions.
	Timeout time.Duration
}

// FileEntry is what a directory of an overlay holds under one name.
type FileEntry struct {
	Name     string
	Kind     string // file, directory, link
	Size     uint64
	Modified time.Time
}

// OverlayItem is an item of the workshop that an overlay was made of.
type OverlayItem struct {
	ID, Title string
	File      string // below left4dead2/addons; empty where there is none
	State     string // present, kept (the file is that of an earlier revision), missing
	Cause     string // why it was not to be had, for people; empty where it was
	Size      uint64
	Updated   time.Time // zero where it is not known
}

// Conflict is a path that several overlays hold.
type Conflict struct {
	Path     string
	Overlays []string // highest precedence first
}

func (c OverlayConfig) variants() map[string]dbus.Variant {
	m := map[string]dbus.Variant{}
	if c.Keep != nil {
		m["keep"] = dbus.MakeVariant(*c.Keep)
	}
	if c.Items != nil {
		m["items"] = dbus.MakeVariant(c.Items)
	}
	if c.Script != nil {
		m["script"] = dbus.MakeVariant(*c.Script)
	}
	return m
}

// OverlayMaps returns the maps in the current revision of an overlay. Errors: ErrNoSuchOverlay, ErrAccessDenied.
func (c *Client) OverlayMaps(ctx context.Context, name string) (m Maps, err error) {
	err = c.ofOverlay(ctx, name, "ListMaps", []any{noOptions()}, &m.Maps, &m.Unread, &m.More)
	return m, err
}

// CreateOverlay makes an overlay of a type: "files", with an empty first revision, or "script" and "workshop", with none
// before it is built.
// Errors: ErrInvalidName, ErrInvalidArgument, ErrOverlayExists, ErrAccessDenied.
func (c *Client) CreateOverlay(ctx context.Context, name, kind string, config OverlayConfig) (dbus.ObjectPath, error) {
	var object dbus.ObjectPath
	err := c.manager(ctx, "CreateOverlay", []any{name, kind, config.variants(), noOptions()}, &object)
	return object, err
}

// UpdateOverlay changes those keys of an overlay's definition that config has.
// Errors: ErrNoSuchOverlay, ErrInvalidArgument, ErrAccessDenied.
func (c *Client) UpdateOverlay(ctx context.Context, name string, config OverlayConfig) error {
	return c.updateOverlay(ctx, name, config, noOptions())
}

// RollbackOverlay makes a revision that is on disk the current one. Errors as for UpdateOverlay.
func (c *Client) RollbackOverlay(ctx context.Context, name string, revision uint32) error {
	return c.updateOverlay(ctx, name, OverlayConfig{}, map[string]dbus.Variant{"revision": dbus.MakeVariant(revision)})
}

func (c *Client) updateOverlay(ctx context.Context, name string, config OverlayConfig, options map[string]dbus.Variant) error {
	var object dbus.ObjectPath
	return c.manager(ctx, "UpdateOverlay", []any{name, "", config.variants(), options}, &object)
}

// ImportOverlay makes a new revision of an overlay from what stream, a file or the reading end of a pipe, carries: an
// archive, or a VPK file. The descriptor is handled as by ImportGame.
// Errors: ErrNoSuchOverlay, ErrInvalidArgument, ErrBusy, ErrQuotaExceeded, ErrAccessDenied, ErrNotSupported.
func (c *Client) ImportOverlay(ctx context.Context, name string, stream *os.File, o ImportOptions) (*Job, error) {
	if err := c.passes("import into overlay " + name); err != nil {
		return nil, err
	}
	options := JobOptions{Timeout: o.Timeout}.variants()
	if o.Size > 0 {
		options["size"] = dbus.MakeVariant(o.Size)
	}
	if o.Merge {
		options["merge"] = dbus.MakeVariant(true)
	}
	if len(o.Remove) > 0 {
		options["remove"] = dbus.MakeVariant(o.Remove)
	}
	if o.Base > 0 {
		options["base"] = dbus.MakeVariant(o.Base)
	}
	if o.Into != "" {
		options["into"] = dbus.MakeVariant(o.Into)
	}
	if o.FileName != "" {
		options["filename"] = dbus.MakeVariant(o.FileName)
	}
	job, err := c.job(ctx, "ImportOverlay", name, dbus.UnixFD(stream.Fd()), options)
	runtime.KeepAlive(stream)
	return job, err
}

// BuildOverlay makes a new revision of an overlay whose type can make one by itself.
// Errors: ErrNoSuchOverlay, ErrInvalidArgument, ErrBusy, ErrQuotaExceeded, ErrAccessDenied.
func (c *Client) BuildOverlay(ctx context.Context, name string, o BuildOptions) (*Job, error) {
	options := JobOptions{Timeout: o.Timeout}.variants()
	if o.OnTop {
		options["on_top"] = dbus.MakeVariant(true)
	}
	return c.job(ctx, "BuildOverlay", name, options)
}

// DeleteOverlay removes an overlay with all its revisions. Deleting what is not there succeeds.
// Errors: ErrInUse (the message names its users), ErrBusy, ErrAccessDenied.
func (c *Client) DeleteOverlay(ctx context.Context, name string, o JobOptions) (*Job, error) {
	return c.job(ctx, "DeleteOverlay", name, o.variants())
}

// GetOverlay returns all that is known of one overlay, or ErrNoSuchOverlay.
func (c *Client) GetOverlay(ctx context.Context, name string) (OverlayInfo, error) {
	object, err := c.object(ctx, "GetOverlay", name)
	if err != nil {
		return OverlayInfo{}, err
	}
	p, err := c.properties(ctx, object, names.Overlay)
	if err != nil {
		return OverlayInfo{}, gone(err, ErrNoSuchOverlay, "overlay "+name)
	}
	return overlayInfo(object, p)
}

func overlayInfo(object dbus.ObjectPath, p *properties) (OverlayInfo, error) {
	o := OverlayInfo{Object: object}
	p.get("Name", &o.Name)
	p.get("Id", &o.ID)
	p.get("Type", &o.Type)
	p.get("Owner", &o.Owner)
	p.get("OwnerName", &o.OwnerName)
	p.get("State", &o.State)
	p.get("Cause", &o.Cause)
	p.get("Revision", &o.Revision)
	o.Revisions = p.revisions("Revisions")
	p.get("Files", &o.Files)
	p.get("Size", &o.Size)
	return o, p.err
}

func (p *properties) revisions(name string) []Revision {
	var rows []struct {
		ID                      uint32
		Published, Files, Bytes uint64
	}
	p.get(name, &rows)
	var all []Revision
	for _, r := range rows {
		all = append(all, Revision{r.ID, moment(r.Published), r.Files, r.Bytes})
	}
	return all
}

// GetOverlayConfig returns the definition of an overlay, as CreateOverlay accepts it back.
// Errors: ErrNoSuchOverlay, ErrAccessDenied; and one if this package does not know all of its keys.
func (c *Client) GetOverlayConfig(ctx context.Context, name string) (OverlayConfig, error) {
	var values map[string]dbus.Variant
	if err := c.ofOverlay(ctx, name, "GetConfig", nil, &values); err != nil {
		return OverlayConfig{}, err
	}
	var o OverlayConfig
	for _, key := range slices.Sorted(maps.Keys(values)) {
		var field any
		switch key {
		case "keep":
			o.Keep = new(uint32)
			field = o.Keep
		case "items":
			field = &o.Items
		case "script":
			o.Script = new(string)
			field = o.Script
		default:
			return OverlayConfig{}, unknownKey(key)
		}
		if err := dbus.Store([]any{values[key].Value()}, field); err != nil {
			return OverlayConfig{}, fmt.Errorf("left4d sent config key %q: %w", key, err)
		}
	}
	return o, nil
}

// ListOverlays returns all overlays, by name.
func (c *Client) ListOverlays(ctx context.Context) ([]OverlayInfo, error) {
	all, err := managed(ctx, c, names.Overlay, overlayInfo)
	slices.SortFunc(all, func(a, b OverlayInfo) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

// managed returns all objects of an interface with one question, however many there are.
func managed[T any](ctx context.Context, c *Client, iface string, read func(dbus.ObjectPath, *properties) (T, error)) ([]T, error) {
	var objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	if err := c.call(ctx, names.Root, names.ObjectManager, "GetManagedObjects", nil, &objects); err != nil {
		return nil, err
	}
	var all []T
	for path, interfaces := range objects {
		values, ok := interfaces[iface]
		if !ok {
			continue
		}
		one, err := read(path, &properties{values: values})
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// ListOverlayFiles returns what a directory of an overlay holds, by name; "" is the top, revision 0 the current one.
// more tells that left4d left some out.
// Errors: ErrNoSuchOverlay, ErrInvalidArgument (there is no such directory or revision), ErrAccessDenied.
func (c *Client) ListOverlayFiles(ctx context.Context, name, path string, revision uint32) (entries []FileEntry, more bool, err error) {
	var rows []struct {
		Name, Kind     string
		Size, Modified uint64
	}
	if err := c.ofOverlay(ctx, name, "ListFiles", []any{path, atRevision(revision)}, &rows, &more); err != nil {
		return nil, false, err
	}
	for _, r := range rows {
		entries = append(entries, FileEntry{r.Name, r.Kind, r.Size, moment(r.Modified)})
	}
	return entries, more, nil
}

// ListOverlayItems returns the items that an overlay of type workshop was made of; revision 0 is the current one.
// Errors: ErrNoSuchOverlay, ErrInvalidArgument (there is no such revision, or it is of another type), ErrAccessDenied.
func (c *Client) ListOverlayItems(ctx context.Context, name string, revision uint32) ([]OverlayItem, error) {
	var rows []struct {
		ID, Title, File, State, Cause string
		Size, Updated                 uint64
	}
	if err := c.ofOverlay(ctx, name, "ListItems", []any{atRevision(revision)}, &rows); err != nil {
		return nil, err
	}
	var items []OverlayItem
	for _, r := range rows {
		items = append(items, OverlayItem{r.ID, r.Title, r.File, r.State, r.Cause, r.Size, moment(r.Updated)})
	}
	return items, nil
}

// OpenOverlayFile opens a file of an overlay for reading; revision 0 is the current one.
// Errors as ListOverlayFiles, and ErrNotSupported.
func (c *Client) OpenOverlayFile(ctx context.Context, name, path string, revision uint32) (*os.File, error) {
	if err := c.passes("read a file of overlay " + name); err != nil {
		return nil, err
	}
	var fd dbus.UnixFD
	if err := c.ofOverlay(ctx, name, "OpenFile", []any{path, atRevision(revision)}, &fd); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func atRevision(revision uint32) map[string]dbus.Variant {
	options := noOptions()
	if revision > 0 {
		options["revision"] = dbus.MakeVariant(revision)
	}
	return options
}

func (c *Client) ofOverlay(ctx context.Context, name, member string, args []any, results ...any) error {
	return c.of(ctx, kindOverlay, name, member, args, results...)
}

// objectKind is one kind of objects that have a name.
type objectKind struct {
	get    string // the Manager's method that gives the object
	iface  string
	absent error
	word   string
}

var (
	kindInstance  = objectKind{"GetInstance", names.Instance, ErrNoSuchInstance, "instance"}
	kindBlueprint = objectKind{"GetBlueprint", names.Blueprint, ErrNoSuchBlueprint, "blueprint"}
	kindOverlay   = objectKind{"GetOverlay", names.Overlay, ErrNoSuchOverlay, "overlay"}
)

// of calls a method of the object of that name. The object is asked for first, because only the Manager tells a name
// that is not there from a path that is not.
func (c *Client) of(ctx context.Context, k objectKind, name, member string, args []any, results ...any) error {
	object, err := c.object(ctx, k.get, name)
	if err != nil {
		return err
	}
	return gone(c.call(ctx, object, k.iface, member, args, results...), k.absent, k.word+" "+name)
}
