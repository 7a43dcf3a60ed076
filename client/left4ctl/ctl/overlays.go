package ctl

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

func keepFlag(v *invocation, fs *pflag.FlagSet) {
	fs.Uint32Var(&v.keep, "keep", 0, "keep `N` older revisions for a rollback (1 if it is not given)")
}

// defaultKeep is what left4d does where --keep was never given.
var defaultKeep uint32 = 1

// keeping is the config that --keep gives.
func (v *invocation) keeping() client.OverlayConfig {
	if v.flags.Changed("keep") {
		return client.OverlayConfig{Keep: &v.keep}
	}
	return client.OverlayConfig{}
}

func runOverlayCreate(v *invocation) error {
	name := v.args[0]
	c, err := v.connect()
	if err != nil {
		return err
	}
	if _, err := c.CreateOverlay(v.ctx, name, "files", v.keeping()); err != nil {
		return v.failed("create", name, err)
	}
	v.say("%s: created", name)
	return nil
}

func runOverlayConfigure(v *invocation) error {
	config := v.keeping()
	if config.Keep == nil {
		return usagef("overlay configure needs something to change")
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, unmatched := v.named("configure", anOverlay, v.args)
	done, err := v.each("configure", names, func(name string) error { return c.UpdateOverlay(v.ctx, name, config) })
	for _, name := range done {
		v.say("%s: configured", name)
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

func runOverlayBuild(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, unmatched := v.named("build", anOverlay, v.args)
	return firstOf(v.jobs("build", names, func(name string) (*client.Job, error) {
		return c.BuildOverlay(v.ctx, name, v.jobOptions())
	}), unmatched)
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
	keep *uint32
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
			return overlayShown{o, nil}, nil
		case config.Keep == nil:
			config.Keep = &defaultKeep
		}
		return overlayShown{o, config.Keep}, err
	}, func(o overlayShown) any {
		return overlayShowJSON{overlayAsJSON(o.OverlayInfo), o.keep, revisionsAsJSON(o.Revisions, o.Revision)}
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
	if o.keep != nil {
		rows = append(rows, [2]string{"Keep", count(uint64(*o.keep))})
	}
	v.sheet(rows)
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
