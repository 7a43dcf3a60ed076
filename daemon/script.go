package daemon

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"left4.me/left4/daemon/store"
	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

// ScriptType is the type of overlays whose files a script of their owner makes.
const ScriptType = "script"

const (
	maxScript      = 64 << 10  // bytes
	scriptDisk     = 20 << 30  // bytes that it may fill
	scriptFiles    = 1_000_000 // that it may make
	scriptDeadline = time.Hour
)

// checkScript tells whether a text can be one.
func checkScript(text string) error {
	if len(text) > maxScript {
		return errorf(InvalidArgument, "a script of %d bytes is not allowed: at most %d are", len(text), maxScript)
	}
	// As a string of the bus it is UTF-8 without a NUL.
	if strings.TrimSpace(text) == "" {
		return errorf(InvalidArgument, "an empty script is not allowed")
	}
	return nil
}

// buildScript has the overlay's script make a revision.
func (d *Daemon) buildScript(ctx context.Context, j *job) error {
	o, err := d.Overlay(j.Target)
	if err != nil {
		return err
	}
	var base uint32
	if j.Parameters.V.OnTop {
		base = d.holdBase(o.ID)
		defer d.releaseBase(o.ID, base)
	}
	var report status.Report
	err = d.makeRevision(ctx, j, maker{
		verb: "build", bound: units.Usage{Files: scriptFiles, Bytes: scriptDisk},
		worker: func(_ context.Context, r *store.Revision) (units.Worker, error) {
			return d.scriptWorker(o, *r, base)
		},
		take: func(_ context.Context, r *store.Revision, told status.Report) (made, error) {
			report = told
			files := made{dir: d.layerPath(r.Overlay, importPrefix+revisionName(r.ID))}
			// A rollback in the meantime must not be undone by what was made of the revision that it went back from.
			if n, err := strconv.ParseUint(report.Note, 10, 32); err == nil && j.Parameters.V.OnTop {
				over := uint32(n)
				files.over = &over
			}
			return files, nil
		},
	})
	if err == nil {
		d.step(j, "built: %d files, %d bytes", report.Files, report.Bytes)
	}
	return err
}

// scriptWorker is the one that makes revision r, of the files of base where that is not 0.
func (d *Daemon) scriptWorker(o Overlay, r store.Revision, base uint32) (units.Worker, error) {
	staging, err := d.makeStaging(r)
	if err != nil {
		return units.Worker{}, err
	}
	w := units.Worker{
		Command: []string{d.Worker, "script"}, Dir: staging, Stdin: -1, Box: units.BoxScript, FileMax: scriptDisk,
		Env: []string{
			"LEFT4_JOB=" + strconv.FormatUint(uint64(r.Job), 10), "LEFT4_OVERLAY=" + o.Name, "LEFT4_OVERLAY_ID=" + strconv.FormatUint(uint64(o.ID), 10),
		},
	}
	if err := d.network(&w); err != nil {
		return w, err
	}
	ordered := order.Script{Text: o.Config.V.Script, Private: w.Box.Private}
	if base != 0 {
		ordered.Base = d.layerPath(o.ID, revisionName(base))
		w.Readable = []string{ordered.Base}
	}
	w.Order, err = json.Marshal(ordered)
	return w, err
}
