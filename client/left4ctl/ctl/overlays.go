package ctl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

// layerKey is one key of an overlay's definition, as a flag of overlay create and configure and as KEY=VALUE.
type layerKey struct {
	name, flag, value, usage string
	list                     bool   // each time it is given adds an element; an empty text makes the list empty
	kind                     string // the type that has it, "" = all
	set                      func(*client.OverlayConfig, string) error
}

var layerKeys = []layerKey{
	{
		name: "keep", flag: "keep", value: "N", usage: "keep `N` older revisions for a rollback (1 if it is not given)",
		set: func(c *client.OverlayConfig, text string) error {
			n, err := strconv.ParseUint(text, 10, 32)
			if err != nil {
				return fmt.Errorf("%q is no number of revisions", text)
			}
			keep := uint32(n)
			c.Keep = &keep
			return nil
		},
	},
	{
		name: "items", flag: "item", value: "ID|URL", list: true, kind: "workshop",
		usage: "one item or collection of the workshop, `ID|URL` (repeat it for more)",
		set:   func(c *client.OverlayConfig, text string) error { c.Items = add(c.Items, text); return nil },
	},
	{
		name: "script", flag: "script", value: "FILE", kind: "script", usage: "what bash runs to make the files is in `FILE`",
		set: func(c *client.OverlayConfig, file string) error {
			text, err := readScript(file)
			c.Script = &text
			return err
		},
	},
}

// overlayTypes are the types of overlays that there are.
var overlayTypes = []string{defaultType, "script", "workshop"}

// maxScript is how large a script may be, in bytes, as left4d has it.
const maxScript = 64 << 10

func readScript(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", plain(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxScript+1))
	switch {
	case err != nil:
		return "", plain(err)
	case len(text) > maxScript:
		return "", fmt.Errorf("%s has more than %d bytes", file, maxScript)
	case !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0:
		return "", fmt.Errorf("%s is no text", file)
	}
	return string(text), nil
}

// layerSettings gathers what the flags and the KEY=VALUE arguments say of an overlay.
type layerSettings struct {
	config client.OverlayConfig
	given  []string // keys
	kind   string   // the type, "" = not said
}

func (s *layerSettings) knows(name string) bool {
	return slices.ContainsFunc(layerKeys, func(k layerKey) bool { return k.name == name })
}

func (s *layerSettings) assign(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return usagef("%q is no KEY=VALUE", text)
	}
	var all []string
	for _, k := range layerKeys {
		if k.name == name {
			return s.set(k, value)
		}
		all = append(all, k.name)
	}
	return &usageError{text: fmt.Sprintf("unknown key %q", name), hint: "the keys are " + strings.Join(all, ", ")}
}

func (s *layerSettings) set(k layerKey, value string) error {
	if slices.Contains(s.given, k.name) && !k.list {
		return usagef("%s is given twice", k.name)
	}
	s.given = append(s.given, k.name)
	if err := k.set(&s.config, value); err != nil {
		return usagef("%s: %v", k.name, err)
	}
	return nil
}

// typed is the type that is said, or the one that has the keys which are given.
func (s *layerSettings) typed() string {
	for _, k := range layerKeys {
		if s.kind == "" && k.kind != "" && slices.Contains(s.given, k.name) {
			return k.kind
		}
	}
	return orElse(s.kind, defaultType)
}

func layerFlags(v *invocation, fs *pflag.FlagSet) {
	for _, k := range layerKeys {
		fs.Var(settingFlag{k.value, func(text string) error { return v.layer.set(k, text) }}, k.flag, k.usage)
		if k.list {
			fs.SetAnnotation(k.flag, repeatable, []string{"true"})
		}
	}
}

func overlayCreateFlags(v *invocation, fs *pflag.FlagSet) {
	fs.StringVar(&v.layer.kind, "type", "", "how it comes by its files, `TYPE`: files are imported, a script\nmakes them, a workshop's are fetched (files if it is not given)")
	layerFlags(v, fs)
}

// defaultKeep is what left4d does where --keep was never given.
var defaultKeep uint32 = 1

func runOverlayCreate(v *invocation) error {
	given, err := v.assigned(&v.layer)
	if err == nil && len(given) > 1 {
		err = usagef("%q is no KEY=VALUE", given[1])
	}
	if err != nil {
		return err
	}
	name, kind := given[0], v.layer.typed()
	c, err := v.connect()
	if err != nil {
		return err
	}
	if _, err := c.CreateOverlay(v.ctx, name, kind, v.layer.config); err != nil {
		return v.failed("create", name, err)
	}
	v.say("%s: created", name)
	if kind != defaultType && !v.quiet {
		v.hint("left4ctl overlay build " + name + " gives it its files")
	}
	return nil
}

func runOverlayConfigure(v *invocation) error {
	given, err := v.assigned(&v.layer)
	if err != nil {
		return err
	}
	if len(v.layer.given) == 0 {
		return usagef("overlay configure needs something to change")
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, unmatched := v.named("configure", anOverlay, given)
	done, err := v.each("configure", names, func(name string) error { return c.UpdateOverlay(v.ctx, name, v.layer.config) })
	for _, name := range done {
		v.say("%s: configured", name)
	}
	if len(done) > 0 && v.layer.config.Items != nil && !v.quiet {
		v.hint("left4ctl overlay build " + strings.Join(done, " ") + " fetches what that changes")
	}
	return firstOf(err, unmatched)
}

func overlayImportFlags(v *invocation, fs *pflag.FlagSet) {
	fs.BoolVar(&v.merge, "merge", false, "keep the files of the current revision that are not brought")
	fs.StringVar(&v.into, "into", "", "put all into `DIR` of the overlay, as left4dead2 for SourceMod")
	jobFlags(v, fs)
}

func runOverlayImport(v *invocation) error {
	name, path := v.args[0], v.args[1]
	return v.importFrom(name, path, func(c *client.Client, s *client.Source) (*client.Job, error) {
		return c.ImportOverlay(v.ctx, name, s.File, client.ImportOptions{Size: s.Size, Merge: v.merge, Into: v.into, FileName: s.Name, Timeout: time.Duration(v.timeout)})
	})
}

func overlayBuildFlags(v *invocation, fs *pflag.FlagSet) {
	fs.BoolVar(&v.onTop, "on-top", false, "have a script begin with the files of the current revision")
	fs.BoolVarP(&v.follow, "follow", "f", false, "show what it prints, from the journal")
	jobFlags(v, fs)
}

func runOverlayBuild(v *invocation) error {
	if v.follow && v.noWait {
		return usagef("--follow and --no-wait exclude each other")
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, unmatched := v.named("build", anOverlay, v.args)
	var ends []func()
	var started sync.Mutex
	err = v.jobs("build", names, func(name string) (*client.Job, error) {
		job, err := c.BuildOverlay(v.ctx, name, client.BuildOptions{OnTop: v.onTop, Timeout: time.Duration(v.timeout)})
		if err != nil || !v.follow {
			return job, err
		}
		before := ""
		if len(names) > 1 {
			before = name + ": "
		}
		started.Lock()
		defer started.Unlock()
		ends = append(ends, v.followBuild(job, before))
		return job, nil
	})
	for _, end := range ends {
		end()
	}
	return firstOf(err, unmatched)
}

// runOverlayRefresh builds overlays of type workshop, all of them if none is named.
func runOverlayRefresh(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, unmatched := v.args, error(nil)
	if len(v.args) > 0 {
		names, unmatched = v.named("refresh", anOverlay, v.args)
	}
	list, err := c.ListOverlays(v.ctx)
	if err != nil {
		return v.failed("list the overlays", "", err)
	}
	for _, o := range list {
		switch {
		case o.Type == "workshop" && len(v.args) == 0:
			names = append(names, o.Name)
		case o.Type != "workshop" && slices.Contains(names, o.Name):
			names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == o.Name })
			if !slices.ContainsFunc(v.args, isPattern) || slices.Contains(v.args, o.Name) {
				v.complain(cannot("refresh", o.Name, fmt.Errorf("it is of type %s, and only type workshop has something to look for", o.Type)))
				unmatched = exitCode(exitFailure)
			}
		}
	}
	if len(names) == 0 && unmatched == nil {
		v.say("No overlays of type workshop.")
	}
	return firstOf(v.jobs("build", names, func(name string) (*client.Job, error) {
		return c.BuildOverlay(v.ctx, name, client.BuildOptions{Timeout: time.Duration(v.timeout)})
	}), unmatched)
}

// itemJSON is an item in overlay items --json.
type itemJSON struct {
	ID      string  `json:"id"`
	Title   string  `json:"title"`
	File    string  `json:"file"`
	State   string  `json:"state"`
	Cause   string  `json:"cause"`
	Size    uint64  `json:"size"`
	Updated *string `json:"updated"`
}

func overlayItemsFlags(v *invocation, fs *pflag.FlagSet) {
	tableFlags(v, fs)
	revisionFlag(v, fs)
}

func runOverlayItems(v *invocation) error {
	name := v.args[0]
	c, err := v.connect()
	if err != nil {
		return err
	}
	items, err := c.ListOverlayItems(v.ctx, name, v.revision)
	if err != nil {
		return v.failed("list the items of", name, err)
	}
	if v.json {
		all := make([]itemJSON, 0, len(items))
		for _, i := range items {
			all = append(all, itemJSON{i.ID, i.Title, i.File, i.State, i.Cause, i.Size, stamp(i.Updated)})
		}
		return printJSON(v.stdout, all)
	}
	var rows [][]string
	for _, i := range items {
		rows = append(rows, []string{i.ID, i.State, i.File, roughSize(i.Size), when(i.Updated), i.Title, i.Cause})
	}
	v.table([]string{"ID", "STATE", "FILE", "SIZE", "UPDATED", "TITLE", "CAUSE"}, rows, "item")
	if len(items) == 0 && !v.quiet {
		v.hint("left4ctl overlay build " + name + " fetches them")
	}
	return nil
}

func runOverlayDelete(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, unmatched := v.named("delete", anOverlay, v.args)
	return firstOf(v.jobs("delete", names, func(name string) (*client.Job, error) {
		return c.DeleteOverlay(v.ctx, name, v.jobOptions())
	}), unmatched)
}

// overlayRow is an overlay in overlay list --json and, with the second half, in overlay show --json.
type overlayRow struct {
	Name      string `json:"name"`
	ID        uint32 `json:"id"`
	Type      string `json:"type"`
	Owner     uint32 `json:"owner"`
	OwnerName string `json:"owner_name"`
	State     string `json:"state"`
	Cause     string `json:"cause"`
	Revision  uint32 `json:"revision"`
	Files     uint64 `json:"files"`
	Size      uint64 `json:"size"`
	Object    string `json:"object"`
}

type overlayShowJSON struct {
	overlayRow
	Keep      *uint32        `json:"keep"`
	Items     []string       `json:"items"`
	Script    *string        `json:"script"`
	Revisions []revisionJSON `json:"revisions"`
}

type revisionJSON struct {
	Revision  uint32  `json:"revision"`
	Current   bool    `json:"current"`
	Published *string `json:"published"`
	Files     uint64  `json:"files"`
	Size      uint64  `json:"size"`
}

func overlayAsJSON(o client.OverlayInfo) overlayRow {
	return overlayRow{o.Name, o.ID, o.Type, o.Owner, o.OwnerName, o.State, o.Cause, o.Revision, o.Files, o.Size, string(o.Object)}
}

func runOverlayList(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	list, err := c.ListOverlays(v.ctx)
	if err != nil {
		return v.failed("list the overlays", "", err)
	}
	if v.json {
		all := make([]overlayRow, 0, len(list))
		for _, o := range list {
			all = append(all, overlayAsJSON(o))
		}
		return printJSON(v.stdout, all)
	}
	var rows [][]string
	for _, o := range list {
		rows = append(rows, []string{o.Name, o.Type, o.State, revisionName(o.Revision), count(o.Files), roughSize(o.Size), o.Cause})
	}
	v.table([]string{"NAME", "TYPE", "STATE", "REVISION", "FILES", "SIZE", "CAUSE"}, rows, "overlay")
	return nil
}

// overlayShown is an overlay with what not everybody may see of it.
type overlayShown struct {
	client.OverlayInfo
	client.OverlayConfig
}

func runOverlayShow(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, err := v.selected(anOverlay, v.args)
	if err != nil {
		return err
	}
	c.NoInteraction = true // what not everybody may see is only a part of it
	return show(v, names, func(name string) (overlayShown, error) {
		o, err := c.GetOverlay(v.ctx, name)
		if err != nil {
			return overlayShown{}, err
		}
		config, err := c.GetOverlayConfig(v.ctx, name)
		switch {
		case client.IsAccessDenied(err):
			return overlayShown{o, client.OverlayConfig{}}, nil
		case config.Keep == nil:
			config.Keep = &defaultKeep
		}
		return overlayShown{o, config}, err
	}, func(o overlayShown) any {
		return overlayShowJSON{overlayAsJSON(o.OverlayInfo), o.Keep, o.Items, o.Script, revisionsAsJSON(o.Revisions, o.Revision)}
	}, v.showOverlay)
}

func (v *invocation) showOverlay(o overlayShown) {
	fmt.Fprintln(v.stdout, clean(o.Name))
	rows := [][2]string{
		{"Type", o.Type},
		{"State", o.State},
		{"Cause", o.Cause},
		{"Revision", revisionName(o.Revision)},
		{"Files", count(o.Files)},
		{"Size", roughSize(o.Size)},
		{"On disk", revisionNames(o.Revisions)},
		{"Owner", userName(o.OwnerName, o.Owner)},
		{"Id", count(uint64(o.ID))},
	}
	if o.Keep != nil {
		rows = append(rows, [2]string{"Keep", count(uint64(*o.Keep))})
	}
	if len(o.Items) > 0 {
		rows = append(rows, [2]string{"Items", strings.Join(o.Items, ", ")})
	}
	v.sheet(rows)
	if o.Script != nil {
		fmt.Fprintln(v.stdout, "\nScript:")
		for line := range strings.Lines(*o.Script) {
			fmt.Fprintf(v.stdout, "  %s\n", cleanLine(strings.TrimSuffix(line, "\n")))
		}
	}
}

// unasked reads what not everybody may see, without a question to anybody: it is only a part of what is shown. Who may
// not gets nothing.
func unasked[T any](v *invocation, read func() (T, error)) (T, error) {
	before := v.c.NoInteraction
	v.c.NoInteraction = true
	defer func() { v.c.NoInteraction = before }()
	value, err := read()
	if client.IsAccessDenied(err) {
		var none T
		return none, nil
	}
	return value, err
}

func runOverlayRevisions(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, err := v.selected(anOverlay, v.args)
	if err != nil {
		return err
	}
	answers := ask(v, names, func(name string) (client.OverlayInfo, error) { return c.GetOverlay(v.ctx, name) })
	result := refusals(v, "show", answers)
	var all []revisionOf
	for _, a := range answers {
		if a.err == nil {
			all = append(all, revisionsOf(a.name, a.value.Revisions, a.value.Revision)...)
		}
	}
	return firstOf(v.showRevisions(all), result)
}

func runGameRevisions(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	service, err := c.Service(v.ctx)
	if err != nil {
		return v.failed("show the revisions of the game", "", err)
	}
	if len(service.GameRevisions) == 0 && !v.json && !v.quiet {
		v.say("The game is not installed.")
		v.hint(importHint)
		return nil
	}
	return v.showRevisions(revisionsOf("", service.GameRevisions, service.GameRevision))
}

func revisionsAsJSON(list []client.Revision, current uint32) []revisionJSON {
	all := make([]revisionJSON, 0, len(list))
	for _, r := range list {
		all = append(all, revisionJSON{r.ID, r.ID == current, stamp(r.Published), r.Files, r.Bytes})
	}
	return all
}

// revisionOf is a revision in overlay revisions --json and, where it is of the game, in game revisions --json.
type revisionOf struct {
	Overlay string `json:"overlay,omitempty"`
	revisionJSON
	published time.Time
}

func revisionsOf(overlay string, list []client.Revision, current uint32) []revisionOf {
	var all []revisionOf
	for n, r := range revisionsAsJSON(list, current) {
		all = append(all, revisionOf{overlay, r, list[n].Published})
	}
	return all
}

func (v *invocation) showRevisions(list []revisionOf) error {
	if v.json {
		return printJSON(v.stdout, append([]revisionOf{}, list...))
	}
	headings := []string{"REVISION", "PUBLISHED", "FILES", "SIZE", "MARK"}
	several := len(v.args) > 0 && !one(v.args)
	if several {
		headings = slices.Insert(headings, 0, "OVERLAY")
	}
	var rows [][]string
	for _, r := range list {
		mark := ""
		if r.Current {
			mark = "current"
		}
		row := []string{revisionName(r.Revision), when(r.published), count(r.Files), roughSize(r.Size), mark}
		if several {
			row = slices.Insert(row, 0, r.Overlay)
		}
		rows = append(rows, row)
	}
	v.table(headings, rows, "revision")
	return nil
}

func runOverlayRollback(v *invocation) error {
	name := v.args[0]
	wanted, err := wantedRevision(v.args[1:])
	if err != nil {
		return err
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	if wanted == 0 {
		o, err := c.GetOverlay(v.ctx, name)
		if err != nil {
			return v.failed("roll back", name, err)
		}
		if wanted = nextOlder(o.Revisions, o.Revision); wanted == 0 {
			return v.nothingOlder(name, "left4ctl overlay configure "+name+" --keep N keeps more of them from now on")
		}
	}
	if err := c.RollbackOverlay(v.ctx, name, wanted); err != nil {
		return v.failed("roll back", name, err)
	}
	v.say("%s: revision %d is the current one", name, wanted)
	return nil
}

func runGameRollback(v *invocation) error {
	wanted, err := wantedRevision(v.args)
	if err != nil {
		return err
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	if wanted == 0 {
		service, err := c.Service(v.ctx)
		if err != nil {
			return v.failed("roll back", "the game", err)
		}
		if wanted = nextOlder(service.GameRevisions, service.GameRevision); wanted == 0 {
			return v.nothingOlder("the game", importHint)
		}
	}
	if err := c.SetGameRevision(v.ctx, wanted); err != nil {
		return v.failed("roll back", "the game", err)
	}
	v.say("game: revision %d is the current one", wanted)
	return nil
}

func (v *invocation) nothingOlder(name, hint string) error {
	err := v.failed("roll back", name, errors.New("no older revision is on disk"))
	v.hint(hint)
	return err
}

// wantedRevision is the one that is given, or 0.
func wantedRevision(args []string) (uint32, error) {
	if len(args) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil || n == 0 {
		return 0, usagef("%q is no number of a revision", args[0])
	}
	return uint32(n), nil
}

// nextOlder is the newest of those older than the current one, or 0.
func nextOlder(list []client.Revision, current uint32) uint32 {
	var best uint32
	for _, r := range list {
		if r.ID < current {
			best = max(best, r.ID)
		}
	}
	return best
}

func revisionName(id uint32) string {
	if id == 0 {
		return ""
	}
	return count(uint64(id))
}

func revisionNames(list []client.Revision) string {
	var all []string
	for _, r := range list {
		all = append(all, revisionName(r.ID))
	}
	return strings.Join(all, ", ")
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }

// roughSize is a size for people, as ls -h prints it.
func roughSize(n uint64) string {
	if n < 1024 {
		return count(n)
	}
	size, unit := float64(n), -1
	for size >= 1023.95 && unit+1 < len(sizeUnits) {
		size, unit = size/1024, unit+1
	}
	return fmt.Sprintf("%.1f%c", size, sizeUnits[unit])
}
