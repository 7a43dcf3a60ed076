package units

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Layout is where left4 keeps things, as absolute paths.
type Layout struct {
	State string // /var/lib/left4
	Run   string // /run/left4
	User  string // owns the layers and runs servers and workers; "" = DefaultUser
}

// Plan is what one instance is mounted from.
type Plan struct {
	// Digest stands for everything that was rendered with this plan: 1 to 128 printable ASCII characters, no blanks.
	Digest string
	// Lower are 1 to 500 directories relative to Layout.State, highest precedence first, each below overlays/ or game/.
	// They are UTF-8 without control characters; none is another or lies in another.
	Lower []string
}

const (
	// maxLayers is the kernel's limit (OVL_MAX_STACK).
	maxLayers = 500
	maxPlan   = 8 << 20 // bytes; 500 paths of 4095 bytes fit, escaped
	maxCfg    = 1 << 20 // bytes of one staged file
	maxCfgs   = 2000    // staged files of one instance: two for each layer, and room

	instancesDir = "instances"
	runtimeDir   = "runtime"
	planName     = "plan.json"
	cfgName      = "cfg"
)

type planFile struct {
	Version int      `json:"version"`
	Digest  string   `json:"digest"`
	Lower   []string `json:"lower"`
}

// Marshal is the text of plan.json. A plan that ParsePlan would refuse is an error.
func (p Plan) Marshal() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(planFile{1, p.Digest, p.Lower}); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// ParsePlan reads the text of plan.json. It refuses what it does not know, and every layer outside of overlays/ and game/.
func ParsePlan(data []byte) (Plan, error) {
	// The decoder would quietly replace what is not UTF-8, and the path would be another.
	if !utf8.Valid(data) {
		return Plan{}, errors.New("plan: not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var f planFile
	if err := d.Decode(&f); err != nil {
		return Plan{}, fmt.Errorf("plan: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Plan{}, errors.New("plan: something follows its end")
	}
	if f.Version != 1 {
		return Plan{}, fmt.Errorf("plan: version %d is not known, only 1 is", f.Version)
	}
	p := Plan{f.Digest, f.Lower}
	if err := p.check(); err != nil {
		return Plan{}, err
	}
	return p, nil
}

func (p Plan) check() error {
	if len(p.Digest) < 1 || len(p.Digest) > 128 ||
		strings.ContainsFunc(p.Digest, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("plan: digest %q is not 1 to 128 printable characters", p.Digest)
	}
	if len(p.Lower) < 1 || len(p.Lower) > maxLayers {
		return fmt.Errorf("plan: %d layers, there must be 1 to %d", len(p.Lower), maxLayers)
	}
	all := make(map[string]bool, len(p.Lower))
	for _, lower := range p.Lower {
		if err := checkLower(lower); err != nil {
			return fmt.Errorf("plan: %w", err)
		}
		if all[lower] {
			return fmt.Errorf("plan: layer %q is there twice", lower)
		}
		all[lower] = true
	}
	// The kernel refuses layers within layers with "too many levels of symbolic links", which helps nobody.
	for _, lower := range p.Lower {
		for i, c := range lower {
			if c == '/' && all[lower[:i]] {
				return fmt.Errorf("plan: layer %q lies in layer %q", lower, lower[:i])
			}
		}
	}
	return nil
}

func checkLower(path string) error {
	if !utf8.ValidString(path) || strings.ContainsFunc(path, unicode.IsControl) {
		return fmt.Errorf("layer %q holds control characters or is not UTF-8", path)
	}
	parts := strings.Split(path, "/")
	if len(path) > 4095 || len(parts) < 2 || parts[0] != "overlays" && parts[0] != "game" {
		return fmt.Errorf("layer %q is not below overlays/ or game/", path)
	}
	for _, part := range parts {
		if part == "" || part == "." || part == ".." || len(part) > 255 {
			return fmt.Errorf("layer %q is not a plain path below overlays/ or game/", path)
		}
	}
	return nil
}

// CheckLower tells whether path, relative to l.State as in a plan, can be a layer: a directory below overlays/ or game/,
// reached without a link.
func (l Layout) CheckLower(path string) error {
	state, err := openAbs(l.State)
	if err != nil {
		return err
	}
	defer unix.Close(state)
	fd, err := openLower(state, path)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func openLower(state int, path string) (int, error) {
	if err := checkLower(path); err != nil {
		return -1, err
	}
	fd, err := OpenBeneath(state, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, fmt.Errorf("layer %w", err)
	}
	return fd, nil
}

// openSub opens a directory of the state that holds one entry per instance. None there is ENOENT.
func (l Layout) openSub(sub, name string) (int, error) {
	if !mountable(name) {
		return -1, fmt.Errorf("%q is no name of an instance", name)
	}
	state, err := openAbs(l.State)
	if err != nil {
		return -1, err
	}
	defer unix.Close(state)
	return OpenBeneath(state, sub, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// makeSub is openSub that makes what is missing.
func (l Layout) makeSub(sub, name string, mode uint32) (int, error) {
	if !mountable(name) {
		return -1, fmt.Errorf("%q is no name of an instance", name)
	}
	state, err := openAbs(l.State)
	if err != nil {
		return -1, err
	}
	defer unix.Close(state)
	return MkdirAllBeneath(state, sub, mode, -1, -1)
}

// aside is where an instance's directory is before it is complete and while it goes. No instance's name begins with a dot.
func aside(name string) string { return "." + name + ".aside" }

// WriteInstance writes what was rendered for an instance: the plan, and the files that are staged into its server's cfg directory
// before the mount. Names in cfg are plain file names that do not begin with a dot; a file has at most 1 MiB.
// After a crash there is what was before or what is new, never a mixture. It writes nothing and reports false when all is
// there already.
func (l Layout) WriteInstance(name string, p Plan, cfg map[string][]byte) (changed bool, err error) {
	instances, err := l.makeSub(instancesDir, name, 0o700)
	if err != nil {
		return false, err
	}
	defer unix.Close(instances)
	text, err := p.Marshal()
	if err != nil {
		return false, err
	}
	if err := checkCfg(cfg); err != nil {
		return false, err
	}
	if err := RemoveTree(instances, aside(name)); err != nil {
		return false, err
	}
	// One that cannot be read is written again.
	oldPlan, oldCfg, err := readInstance(instances, name)
	if err == nil && oldPlan.Digest == p.Digest && slices.Equal(oldPlan.Lower, p.Lower) && maps.EqualFunc(oldCfg, cfg, bytes.Equal) {
		return false, nil
	}

	// The new directory is made whole first: the two then change places in one step, and nobody meets a plan without its files.
	if err := writeWhole(instances, aside(name), text, cfg); err != nil {
		return false, errors.Join(err, RemoveTree(instances, aside(name)))
	}
	err = unix.Renameat2(instances, aside(name), instances, name, unix.RENAME_EXCHANGE)
	if err == unix.ENOENT {
		err = unix.Renameat2(instances, aside(name), instances, name, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return false, errors.Join(pathError(name, err), RemoveTree(instances, aside(name)))
	}
	if err := takeDefinition(instances, aside(name), name); err != nil {
		return true, errors.Join(pathError(definitionName, err), RemoveTree(instances, aside(name)))
	}
	if err := unix.Fsync(instances); err != nil {
		return true, pathError(name, err)
	}
	return true, RemoveTree(instances, aside(name))
}

func writeWhole(parent int, name string, text []byte, cfg map[string][]byte) error {
	dir, err := MkdirAllBeneath(parent, name, 0o700, -1, -1)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	sub, err := MkdirAllBeneath(dir, cfgName, 0o700, -1, -1)
	if err != nil {
		return err
	}
	defer unix.Close(sub)
	for file, data := range cfg {
		if err := createFile(sub, file, data, 0o600, -1, -1); err != nil {
			return err
		}
	}
	if err := createFile(dir, planName, text, 0o600, -1, -1); err != nil {
		return err
	}
	if err := unix.Fsync(sub); err != nil {
		return pathError(cfgName, err)
	}
	if err := unix.Fsync(dir); err != nil {
		return pathError(name, err)
	}
	return nil
}

func checkCfg(cfg map[string][]byte) error {
	if len(cfg) > maxCfgs {
		return fmt.Errorf("%d files to stage, at most %d are taken", len(cfg), maxCfgs)
	}
	for file, data := range cfg {
		if err := checkCfgName(file); err != nil {
			return err
		}
		if len(data) > maxCfg {
			return fmt.Errorf("file %q to stage has %d bytes, at most %d are taken", file, len(data), maxCfg)
		}
	}
	return nil
}

func checkCfgName(file string) error {
	if err := oneName(file); err != nil || file[0] == '.' || len(file) > 255 ||
		!utf8.ValidString(file) || strings.ContainsFunc(file, unicode.IsControl) {
		return fmt.Errorf("%q is no name for a file to stage", file)
	}
	return nil
}

// ReadInstance reads what WriteInstance wrote. An instance for which nothing was rendered is fs.ErrNotExist.
func (l Layout) ReadInstance(name string) (Plan, map[string][]byte, error) {
	instances, err := l.openSub(instancesDir, name)
	if err != nil {
		return Plan{}, nil, err
	}
	defer unix.Close(instances)
	return readInstance(instances, name)
}

func readInstance(instances int, name string) (Plan, map[string][]byte, error) {
	for {
		dir, err := OpenBeneath(instances, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return Plan{}, nil, err
		}
		p, cfg, err := readWhole(dir)
		same := isNamed(instances, name, dir)
		unix.Close(dir)
		// WriteInstance may have taken the directory away while it was read: then files were missing.
		if same {
			return p, cfg, err
		}
	}
}

// isNamed tells whether name in parent still is the directory that dir holds.
func isNamed(parent int, name string, dir int) bool {
	var now, held unix.Stat_t
	return unix.Fstatat(parent, name, &now, unix.AT_SYMLINK_NOFOLLOW) == nil && unix.Fstat(dir, &held) == nil &&
		now.Dev == held.Dev && now.Ino == held.Ino
}

func readWhole(dir int) (Plan, map[string][]byte, error) {
	text, err := ReadFileBeneath(dir, planName, maxPlan)
	if err != nil {
		return Plan{}, nil, err
	}
	p, err := ParsePlan(text)
	if err != nil {
		return Plan{}, nil, err
	}
	sub, err := OpenBeneath(dir, cfgName, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return Plan{}, nil, err
	}
	defer unix.Close(sub)
	cfg := make(map[string][]byte)
	err = readNames(sub, func(file string) error {
		if err := checkCfgName(file); err != nil {
			return err
		}
		data, err := ReadFileBeneath(sub, file, maxCfg)
		if err != nil {
			return err
		}
		if len(cfg) == maxCfgs {
			return fmt.Errorf("more than %d files to stage", maxCfgs)
		}
		cfg[file] = data
		return nil
	})
	if err != nil {
		return Plan{}, nil, err
	}
	return p, cfg, nil
}

// RemoveInstance removes what WriteInstance wrote. Not there is success.
func (l Layout) RemoveInstance(name string) error { return l.removeSub(instancesDir, name) }

// RemoveRuntime removes everything that the instance's server ever wrote and that its mount was made of. It is refused while
// anything is mounted there; the error names the mount. Not there is success.
func (l Layout) RemoveRuntime(name string) error {
	if err := l.removeSub(runtimeDir, name); err != nil {
		return err
	}
	return l.forgetMounted(name)
}

// removeSub takes a directory away in one step and removes it then: after a crash it is there whole, or gone.
func (l Layout) removeSub(sub, name string) error {
	parent, err := l.openSub(sub, name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := RemoveTree(parent, aside(name)); err != nil {
		return err
	}
	if err := notMounted(parent, name); err != nil {
		return err
	}
	switch err := unix.Renameat2(parent, name, parent, aside(name), unix.RENAME_NOREPLACE); err {
	case nil:
	case unix.ENOENT:
		return nil
	default:
		return pathError(name, err)
	}
	if err := unix.Fsync(parent); err != nil {
		return pathError(name, err)
	}
	return RemoveTree(parent, aside(name))
}
