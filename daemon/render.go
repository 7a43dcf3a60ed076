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

// maxServerConfig bounds an overlay's own server.cfg, which becomes part of each instance that exposes it.
const maxServerConfig = 1 << 20

// rendered is all that a start of an instance needs on disk.
type rendered struct {
	server units.Server
	plan   units.Plan
	cfg    map[string][]byte // by name below left4dead2/cfg
}

// render makes from a definition what its next start would have. It writes nothing.
func (d *Daemon) render(def store.Instance) (rendered, error) {
	r := rendered{cfg: map[string][]byte{}}
	d.mu.Lock()
	game := d.game
	d.mu.Unlock()
	if game == 0 {
		return r, errorf(NotInstalled, "the game is not installed")
	}
	var exec []string
	for _, o := range def.Overlays.V {
		layer := overlayLayer(o.Overlay)
		if err := d.checkOverlay(o.Overlay); err != nil {
			return r, err
		}
		r.plan.Lower = append(r.plan.Lower, layer)
		if o.Alias == "" {
			continue
		}
		text, err := d.readLayer(layer, "left4dead2/cfg/server.cfg")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return r, errorf(InvalidArgument, "overlay %s: cannot read its left4dead2/cfg/server.cfg: %v", o.Overlay, err)
		}
		name := stagedName(o)
		r.cfg[name+".cfg"] = text
		exec = append(exec, name)
	}
	gameLayer := "game/" + strconv.FormatUint(uint64(game), 10)
	if err := d.Layout.CheckLower(gameLayer); err != nil {
		return r, errorf(NotInstalled, "game revision %d: %v", game, err)
	}
	r.plan.Lower = append(r.plan.Lower, gameLayer)

	// Source takes the last word, so the lowest layer speaks first.
	slices.Reverse(exec)
	r.cfg["server.cfg"] = serverConfig(def, exec, def.RconPassword)
	r.server = d.unitOf(def)
	r.plan.Digest = r.digest()
	return r, nil
}

func (d *Daemon) checkOverlay(overlay string) error {
	err := d.Layout.CheckLower(overlayLayer(overlay))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errorf(NoSuchOverlay, "there is no overlay %s: %s is missing", overlay, path.Join(d.Layout.State, overlayLayer(overlay)))
	case err != nil:
		return errorf(NoSuchOverlay, "overlay %s cannot be used: %v", overlay, err)
	}
	return nil
}

// overlayLayer is where an overlay's files lie, below the state directory.
func overlayLayer(overlay string) string { return path.Join("overlays", overlay) }

// unitOf is what the unit of an instance is told.
func (d *Daemon) unitOf(def store.Instance) units.Server {
	port := strconv.Itoa(int(def.Port))
	check := []string{d.PreStart, "check-port", port}
	for i, a := range def.Arguments.V {
		if a == "-ip" && i+1 < len(def.Arguments.V) {
			check = []string{d.PreStart, "check-port", port, def.Arguments.V[i+1]}
		}
	}
	return units.Server{
		Name:  def.Name,
		Label: def.Label,
		Command: append([]string{
			path.Join(d.Layout.State, "runtime", def.Name, "merged", "srcds_run"),
			"-game", "left4dead2", "-norestart", "-strictportbind", "-port", port, "+hostport", port,
		}, def.Arguments.V...),
		PreStart: check,
		Restart:  def.Restart,
		Limits:   def.Limits.V,
	}
}

// serverConfig is the generated server.cfg. The order is the meaning: what comes later wins, so the password is last.
func serverConfig(def store.Instance, exec []string, password string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "// Made by left4d for instance %s at its last start. Change it by left4ctl configure %s.\n", def.Name, def.Name)
	for _, name := range exec {
		fmt.Fprintf(&b, "exec %s\n", name)
	}
	for _, line := range def.Config.V {
		fmt.Fprintln(&b, line)
	}
	if def.Hostname != "" {
		fmt.Fprintf(&b, "hostname \"%s\"\n", def.Hostname)
	}
	fmt.Fprintf(&b, "rcon_password \"%s\"\n", password)
	return b.Bytes()
}

// digest stands for everything that only a new start brings to a server. It is world-readable in /run; the random
// password in server.cfg keeps anybody from guessing at what else it covers.
func (r rendered) digest() string {
	h := sha256.New()
	add := func(parts ...string) {
		for _, part := range parts {
			binary.Write(h, binary.LittleEndian, uint64(len(part)))
			h.Write([]byte(part))
		}
		binary.Write(h, binary.LittleEndian, ^uint64(0))
	}
	add(r.plan.Lower...)
	add(r.server.Command...)
	add(r.server.PreStart...)
	add(r.server.Restart)
	names := make([]string, 0, len(r.cfg))
	for name := range r.cfg {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		add(name, string(r.cfg[name]))
	}
	return hex.EncodeToString(h.Sum(nil))
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

// prepare puts on disk what the next start needs. The drop-in comes first: the digest of what is mounted comes from the
// plan, so if only one of the two is written, a server that was started by hand meanwhile still shows as outdated.
func (d *Daemon) prepare(def store.Instance) (rendered, error) {
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
	return r, nil
}

// pendingRestart tells whether the next start of a running server would bring it anything new. What is mounted by hand,
// or not at all any more, is not what a start would mount.
func (d *Daemon) pendingRestart(def store.Instance) bool {
	mounted, _, err := d.Layout.Mounted(def.Name)
	if err != nil {
		return true
	}
	r, err := d.render(def)
	return err == nil && r.plan.Digest != mounted
}

// blank stands in place of a secret.
const blank = "********"

// ServerConfig is the server.cfg that the next start stages, with the password blanked.
func (d *Daemon) ServerConfig(name string) (string, error) {
	in, err := d.Instance(name)
	if err != nil {
		return "", err
	}
	def := in.Instance
	def.RconPassword = blank
	def.Config.V = slices.Clone(def.Config.V)
	for i, line := range def.Config.V {
		if word, _, _ := strings.Cut(strings.TrimLeft(line, " \t\""), " "); strings.Contains(strings.ToLower(word), "password") {
			def.Config.V[i] = strings.Trim(word, `"`) + ` "` + blank + `"`
		}
	}
	r, err := d.render(def)
	if err != nil {
		return "", err
	}
	return string(r.cfg["server.cfg"]), nil
}
