package daemon

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/store"
	"left4.me/left4/units"
)

// Bounds of the server.cfg of one overlay, which becomes part of each instance that exposes it, and of all that one
// instance exposes: whoever may edit overlays must not fill left4d's memory.
const (
	maxServerConfig  = 1 << 20
	maxServerConfigs = 8 << 20
)

// rendered is all that a start of an instance needs on disk.
type rendered struct {
	server units.Server
	plan   units.Plan
	cfg    map[string][]byte // by name below left4dead2/cfg
	layers []layer           // without the game
}

// layer is one overlay of an instance, with the revision that its next start mounts.
type layer struct {
	store.OverlayRef
	id, revision uint32
}

func (l layer) name() string { return layerName(l.id, l.revision) }

// staged is what the overlay's server.cfg is called beside the generated one, without .cfg.
func (l layer) staged() string {
	if l.Alias == "*" {
		return stagedPrefix + revisionName(l.id)
	}
	return l.Alias
}

// layers finds the overlays of a spec, highest first.
func (d *Daemon) layers(s spec) ([]layer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]layer, len(s.overlays))
	for i, ref := range s.overlays {
		o := d.overlays[ref.Overlay]
		if o == nil {
			return nil, errorf(NoSuchOverlay, "there is no overlay %s", ref.Overlay)
		}
		all[i] = layer{ref, o.ID, current(d.revisions[o.ID]).ID}
		if all[i].revision == 0 {
			return nil, errorf(NoSuchOverlay, "overlay %s has no files yet", ref.Overlay)
		}
	}
	return all, nil
}

// exposed is a layer whose server.cfg is staged.
type exposed struct {
	layer
	text []byte
}

// expose reads the server.cfg of those layers that show it, highest first.
func (d *Daemon) expose(layers []layer) ([]exposed, error) {
	var all []exposed
	size := 0
	for _, l := range layers {
		if l.Alias == "" {
			continue
		}
		text, err := d.readLayer(l.name(), "left4dead2/cfg/server.cfg")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errorf(InvalidArgument, "overlay %s: cannot read its left4dead2/cfg/server.cfg: %v", l.Overlay, err)
		}
		if size += len(text); size > maxServerConfigs {
			return nil, errorf(InvalidArgument, "the server.cfg files of the exposed overlays have more than %d bytes together", maxServerConfigs)
		}
		all = append(all, exposed{l, text})
	}
	return all, nil
}

// render makes from a definition, and the blueprint that it follows, what its next start would have. It writes nothing.
func (d *Daemon) render(def store.Instance) (rendered, error) {
	r := rendered{cfg: map[string][]byte{}}
	s := d.spec(def)
	game := d.GameRevision()
	if game == 0 {
		return r, errorf(NotInstalled, "the game is not installed")
	}
	layers, err := d.layers(s)
	if err != nil {
		return r, err
	}
	r.layers = layers
	for _, l := range layers {
		if err := d.Layout.CheckLower(l.name()); err != nil {
			return r, errorf(NoSuchOverlay, "overlay %s: revision %d: %v", l.Overlay, l.revision, missing(err))
		}
		r.plan.Lower = append(r.plan.Lower, l.name())
	}
	base, err := d.gameLayers(game)
	if err != nil {
		return r, err
	}
	for _, layer := range base {
		if err := d.Layout.CheckLower(layer); err != nil {
			return r, errorf(NotInstalled, "game revision %s: %v", path.Base(layer), missing(err))
		}
	}
	r.plan.Lower = append(r.plan.Lower, base...)
	shown, err := d.expose(layers)
	if err != nil {
		return r, err
	}
	for _, e := range shown {
		r.cfg[e.staged()+".cfg"] = e.text
	}
	r.cfg["server.cfg"] = serverConfig(def, configLines(def, s, shown, def.RconPassword))
	r.server = d.unitOf(def, s)
	r.plan.Digest = r.digest()
	return r, nil
}

// missing puts what the kernel says of a layer that is not there into words.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("its directory is missing")
	}
	return err
}

// unitOf is what the unit of an instance is told.
func (d *Daemon) unitOf(def store.Instance, s spec) units.Server {
	port := strconv.Itoa(int(def.Port))
	check := []string{d.PreStart, "check-port", port}
	for i, a := range s.arguments {
		if a == "-ip" && i+1 < len(s.arguments) {
			check = []string{d.PreStart, "check-port", port, s.arguments[i+1]}
		}
	}
	return units.Server{
		Name:  def.Name,
		Label: def.Label,
		Command: append([]string{
			path.Join(d.Layout.State, "runtime", def.Name, "merged", "srcds_run"),
			"-game", "left4dead2", "-norestart", "-strictportbind", "-port", port, "+hostport", port,
		}, s.arguments...),
		PreStart: check,
		Restart:  def.Restart,
		Limits:   s.limits,
	}
}

// configLines are the lines of the generated server.cfg. The order is the meaning: Source takes the last word, so the
// lowest overlay speaks first and the password comes last.
func configLines(def store.Instance, s spec, shown []exposed, password string) []line {
	var lines []line
	for _, e := range slices.Backward(shown) {
		lines = append(lines, line{"exec " + e.staged(), fmt.Sprintf("overlay %s, revision %d", e.Overlay, e.revision)})
	}
	lines = append(lines, s.config...)
	if def.Hostname != "" {
		lines = append(lines, line{`hostname "` + def.Hostname + `"`, "instance " + def.Name})
	}
	return append(lines, line{`rcon_password "` + password + `"`, "instance " + def.Name})
}

// serverConfig is the file that is staged. Whose a line is stands above it, for a comment behind it might be read as a
// part of it.
func serverConfig(def store.Instance, lines []line) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "// Made by left4d for instance %s at its last start. Change it by left4ctl configure %s.\n", def.Name, def.Name)
	from := ""
	for _, l := range lines {
		if l.from != from {
			fmt.Fprintf(&b, "// from %s\n", l.from)
			from = l.from
		}
		fmt.Fprintln(&b, l.text)
	}
	return b.Bytes()
}

// digest stands for everything that only a new start brings to a server, part by part. It is world-readable in /run;
// the random password in server.cfg keeps anybody from guessing at what else that part covers, and the others are no
// secret: everybody sees the command line of a process.
func (r rendered) digest() string {
	names := make([]string, 0, len(r.cfg))
	for name := range r.cfg {
		names = append(names, name)
	}
	sort.Strings(names)
	var files []string
	for _, name := range names {
		files = append(files, name, string(r.cfg[name]))
	}
	return strings.Join([]string{
		hashed(r.plan.Lower), hashed(r.server.Command, r.server.PreStart), hashed([]string{r.server.Restart}), hashed(files),
	}, "-")
}

// Parts of a digest, in its order.
const (
	layersPart = iota
	commandPart
	restartPart
	filesPart
	digestParts
)

func hashed(lists ...[]string) string {
	h := sha256.New()
	for _, list := range lists {
		binary.Write(h, binary.LittleEndian, uint64(len(list)))
		for _, text := range list {
			binary.Write(h, binary.LittleEndian, uint64(len(text)))
			h.Write([]byte(text))
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:14]) // four of them fit a plan's digest
}

// readLayer reads a file of a layer, which its owner may have filled with links: none is followed.
func (d *Daemon) readLayer(layer, file string) ([]byte, error) {
	state, err := unix.Open(d.Layout.State, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(state)
	return units.ReadFileBeneath(state, path.Join(layer, file), maxServerConfig)
}

// prepare puts on disk what the next start needs.
func (d *Daemon) prepare(def store.Instance) (rendered, error) {
	// What is rendered now must still be there when it is written down.
	d.plans.RLock()
	defer d.plans.RUnlock()
	return d.write(def)
}

// write is prepare with plans held. The drop-in comes first: the digest of what is mounted comes from the plan, so if only
// one of the two is written, a server that was started by hand meanwhile still shows as outdated.
func (d *Daemon) write(def store.Instance) (rendered, error) {
	r, err := d.render(def)
	if err != nil {
		return r, err
	}
	if _, err := d.Config.WriteDropIn(r.server); err != nil {
		return r, fmt.Errorf("cannot write the drop-in of %s: %w", def.Name, err)
	}
	if _, err := d.Layout.WriteInstance(def.Name, r.plan, r.cfg); err != nil {
		return r, fmt.Errorf("cannot write the files of %s: %w", def.Name, err)
	}
	if err := d.keep(def, r.layers); err != nil {
		return r, fmt.Errorf("cannot write the files of %s: %w", def.Name, err)
	}
	return r, nil
}

// pendingCause tells what the next start of a running server would bring it, "" if that is nothing new. What is mounted
// by hand, or not at all any more, is not what a start would mount.
func (d *Daemon) pendingCause(def store.Instance) string {
	mounted, ok, err := d.Layout.Mounted(def.Name)
	if err != nil {
		return "what is mounted is not what left4 mounted: " + err.Error()
	}
	r, err := d.render(def)
	switch {
	case err != nil: // it could not be started at all now
		return ""
	case !ok:
		return "its files are not mounted any more"
	case r.plan.Digest == mounted:
		return ""
	}
	before, now := strings.Split(mounted, "-"), strings.Split(r.plan.Digest, "-")
	if len(before) != digestParts {
		return "it was not started by this version of left4"
	}
	var all []string
	for part, what := range []func() []string{
		layersPart:  func() []string { return d.otherLayers(def, r.plan.Lower) },
		commandPart: func() []string { return []string{"other arguments or another port"} },
		restartPart: func() []string { return []string{"another restart policy"} },
		filesPart:   func() []string { return []string{"another server.cfg"} },
	} {
		if before[part] != now[part] {
			all = append(all, what()...)
		}
	}
	return strings.Join(all, ", ")
}

// otherLayers tells how the layers of the next start differ from those that are mounted.
func (d *Daemon) otherLayers(def store.Instance, next []string) []string {
	mounted, _, err := d.Layout.MountedLower(def.Name)
	if err != nil || mounted == nil {
		return []string{"other layers"}
	}
	revisions := func(lower []string) (map[string]string, []string) {
		by, order := map[string]string{}, []string{}
		for _, l := range lower {
			dir, revision := path.Split(l)
			if by[dir] != "" {
				continue // the game's, which the one above lies over
			}
			by[dir] = revision
			order = append(order, dir)
		}
		return by, order
	}
	before, orderBefore := revisions(mounted)
	after, orderAfter := revisions(next)
	var all []string
	for _, dir := range orderAfter {
		switch was, ok := before[dir]; {
		case !ok:
			all = append(all, d.layerTitle(dir)+" is new")
		case was != after[dir]:
			all = append(all, fmt.Sprintf("%s has revision %s in place of %s", d.layerTitle(dir), after[dir], was))
		}
	}
	for _, dir := range orderBefore {
		if _, ok := after[dir]; !ok {
			all = append(all, d.layerTitle(dir)+" is gone")
		}
	}
	if len(all) == 0 {
		all = append(all, "another order of the overlays")
	}
	return all
}

// layerTitle names the layers of a directory, as overlays/3/, for people.
func (d *Daemon) layerTitle(dir string) string {
	id, err := strconv.ParseUint(path.Base(dir), 10, 32)
	if err != nil {
		return "the game"
	}
	if name := d.overlayName(uint32(id)); name != "" {
		return "overlay " + name
	}
	return fmt.Sprintf("a deleted overlay (%d)", id)
}

// blank stands in place of a secret.
const blank = "********"

// ServerConfig is the server.cfg that the next start stages, before any start too, with secrets blanked and behind each
// line where it comes from.
func (d *Daemon) ServerConfig(name string) (string, error) {
	in, err := d.Instance(name)
	if err != nil {
		return "", err
	}
	s := d.spec(in.Instance)
	layers, err := d.layers(s)
	if err != nil {
		return "", err
	}
	shown, err := d.expose(layers)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, l := range configLines(in.Instance, s, shown, blank) {
		if word, _, _ := strings.Cut(strings.TrimLeft(l.text, " \t\""), " "); strings.Contains(strings.ToLower(word), "password") {
			l.text = strings.Trim(word, `"`) + ` "` + blank + `"`
		}
		fmt.Fprintf(&b, "%s // from %s\n", l.text, l.from)
	}
	return b.String(), nil
}
