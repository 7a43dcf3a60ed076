package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/units"
)

// Map is one map that a server could be started with.
type Map struct {
	Name     string
	Campaign string   // "" = no mission names it
	Modes    []string // that the campaign has it for
	Layer    string   // that brings it: an overlay, or game
	File     string
}

// Unread is a file that should tell of maps and cannot be read.
type Unread struct{ Layer, File, Reason string }

// Maps is what there is of maps.
type Maps struct {
	Maps   []Map // those of a campaign together, in its order
	Unread []Unread
	More   bool // there are more maps
}

// InstanceMaps lists the maps in the layers of an instance: of what is mounted, or of what its next start mounts. Errors:
// NoSuchInstance, and those of a start.
func (d *Daemon) InstanceMaps(ctx context.Context, name string) (Maps, error) {
	lower, err := d.lower(name)
	if err != nil {
		return Maps{}, err
	}
	return d.maps(ctx, name, lower)
}

// OverlayMaps lists the maps in a revision of an overlay, 0 = the current one. Errors: NoSuchOverlay, InvalidArgument.
func (d *Daemon) OverlayMaps(ctx context.Context, name string, revision uint32) (Maps, error) {
	layer, err := d.revisionLayer(name, revision)
	if err != nil {
		return Maps{}, err
	}
	return d.maps(ctx, name, []string{layer})
}

// maps has a worker look into the packages there: others wrote them.
func (d *Daemon) maps(ctx context.Context, name string, layers []string) (Maps, error) {
	q := order.Maps{Most: maxRows}
	for _, layer := range layers {
		if err := d.Layout.CheckLower(layer); err != nil {
			return Maps{}, fmt.Errorf("cannot look for the maps of %s: %w", name, err)
		}
		q.Layers = append(q.Layers, filepath.Join(d.Layout.State, layer))
	}
	question, err := json.Marshal(q)
	if err != nil {
		return Maps{}, err
	}
	var found order.MapsResult
	w := units.Worker{Command: []string{d.Worker, "maps"}, Readable: q.Layers, Order: question, User: "left4"}
	if err := d.Units.Consult(ctx, w, &found); err != nil {
		return Maps{}, fmt.Errorf("cannot look for the maps of %s: %w", name, err)
	}
	// Nothing of the answer is believed: a text goes on to others.
	m := Maps{Maps: []Map{}, Unread: []Unread{}, More: found.More}
	size := 0
	take := func(layer int, texts ...string) bool {
		for _, text := range texts {
			size += len(text)
			if len(text) > 4*maxPath || !utf8.ValidString(text) || strings.Contains(text, "\x00") {
				return false
			}
		}
		if size > maxAnswer {
			m.More = true
			return false
		}
		return layer >= 0 && layer < len(layers)
	}
	for _, one := range found.Maps {
		if len(m.Maps) == maxRows {
			m.More = true
			break
		}
		if !take(one.Layer, append([]string{one.Name, one.Campaign, one.File}, one.Modes...)...) || one.Name == "" {
			continue
		}
		m.Maps = append(m.Maps, Map{one.Name, one.Campaign, append([]string{}, one.Modes...), d.layerLabel(layers[one.Layer]), one.File})
	}
	for _, one := range found.Unread {
		if len(m.Unread) < maxRows && take(one.Layer, one.File, one.Reason) {
			m.Unread = append(m.Unread, Unread{d.layerLabel(layers[one.Layer]), one.File, one.Reason})
		}
	}
	return m, nil
}
