package ctl

import (
	"errors"
	"fmt"
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
	name := v.args[0]
	config := v.keeping()
	if config.Keep == nil {
		return usagef("overlay configure needs something to change")
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	if err := c.UpdateOverlay(v.ctx, name, config); err != nil {
		return v.failed("configure", name, err)
	}
	v.say("%s: configured", name)
	return nil
}

func overlayImportFlags(v *invocation, fs *pflag.FlagSet) {
	fs.BoolVar(&v.merge, "merge", false, "keep the files of the current revision that are not brought")
	fs.StringVar(&v.into, "into", "", "put all into `DIR` of the overlay, as left4dead2 for SourceMod")
	jobFlags(v, fs)
}

func runOverlayImport(v *invocation) error {
	name, path := v.args[0], v.args[1]
	return v.importFrom(name, path, func(c *client.Client, s *client.Source) (*client.Job, error) {
		return c.ImportOverlay(v.ctx, name, s.File, client.ImportOptions{Size: s.Size, Merge: v.merge, Into: v.into, Timeout: time.Duration(v.timeout)})
	})
}

func runOverlayBuild(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	return v.jobs("build", v.args, func(name string) (*client.Job, error) { return c.BuildOverlay(v.ctx, name, v.jobOptions()) })
}

func runOverlayDelete(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	return v.jobs("delete", v.args, func(name string) (*client.Job, error) { return c.DeleteOverlay(v.ctx, name, v.jobOptions()) })
}

// overlayRow is an overlay in overlay list --json and, with the second half, in overlay show --json.
type overlayRow struct {
	Name     string `json:"name"`
	ID       uint32 `json:"id"`
	Type     string `json:"type"`
	Owner    uint32 `json:"owner"`
	State    string `json:"state"`
	Cause    string `json:"cause"`
	Revision uint32 `json:"revision"`
	Files    uint64 `json:"files"`
	Size     uint64 `json:"size"`
	Object   string `json:"object"`
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
	return overlayRow{o.Name, o.ID, o.Type, o.Owner, o.State, o.Cause, o.Revision, o.Files, o.Size, string(o.Object)}
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

func runOverlayShow(v *invocation) error {
	name := v.args[0]
	c, err := v.connect()
	if err != nil {
		return err
	}
	o, err := c.GetOverlay(v.ctx, name)
	if err != nil {
		return v.failed("show", name, err)
	}
	keep, err := unasked(v, func() (*uint32, error) {
		config, err := c.GetOverlayConfig(v.ctx, name)
		if config.Keep == nil {
			config.Keep = &defaultKeep
		}
		return config.Keep, err
	})
	if err != nil {
		return v.failed("show", name, err)
	}
	if v.json {
		return printJSON(v.stdout, overlayShowJSON{overlayAsJSON(o), keep, revisionsAsJSON(o.Revisions, o.Revision)})
	}
	fmt.Fprintln(v.stdout, clean(o.Name))
	rows := [][2]string{
		{"Type", o.Type},
		{"State", o.State},
		{"Cause", o.Cause},
		{"Revision", revisionName(o.Revision)},
		{"Files", count(o.Files)},
		{"Size", roughSize(o.Size)},
		{"On disk", revisionNames(o.Revisions)},
		{"Owner", userName(o.Owner)},
		{"Id", count(uint64(o.ID))},
	}
	if keep != nil {
		rows = append(rows, [2]string{"Keep", count(uint64(*keep))})
	}
	v.sheet(rows)
	return nil
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
	name := v.args[0]
	c, err := v.connect()
	if err != nil {
		return err
	}
	o, err := c.GetOverlay(v.ctx, name)
	if err != nil {
		return v.failed("show", name, err)
	}
	return v.showRevisions(o.Revisions, o.Revision)
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
	return v.showRevisions(service.GameRevisions, service.GameRevision)
}

func revisionsAsJSON(list []client.Revision, current uint32) []revisionJSON {
	all := make([]revisionJSON, 0, len(list))
	for _, r := range list {
		all = append(all, revisionJSON{r.ID, r.ID == current, stamp(r.Published), r.Files, r.Bytes})
	}
	return all
}

func (v *invocation) showRevisions(list []client.Revision, current uint32) error {
	if v.json {
		return printJSON(v.stdout, revisionsAsJSON(list, current))
	}
	var rows [][]string
	for _, r := range list {
		mark := ""
		if r.ID == current {
			mark = "current"
		}
		rows = append(rows, []string{revisionName(r.ID), when(r.Published), count(r.Files), roughSize(r.Bytes), mark})
	}
	v.table([]string{"REVISION", "PUBLISHED", "FILES", "SIZE", "MARK"}, rows, "revision")
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
