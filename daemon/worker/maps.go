package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/keyvalues"
	"left4.me/left4/daemon/worker/order"
	valve "left4.me/left4/daemon/worker/vpk"
	"left4.me/left4/units"
)

// What is here goes by the game's search paths: the directories of the game, of its updates and downloadable contents, and in each of
// them what is loose, the game's own package and the add-ons. Missions name their maps in missions/*.txt:
//
//	"mission" { "Name" "L4D2C1" "DisplayTitle" "Dead Center" "modes" { "coop" { "1" { "Map" "c1m1_hotel" } } } }
//
// A file that a higher layer has hides that of the lower ones, as the mount does. What is hidden by a link, or by a
// directory that is opaque, takes rights to know, and is not.

// Bounds of one question, each far beyond what there is.
const (
	maxMission   = 1 << 20 // bytes of a mission file
	maxMissions  = 2000
	maxModDir    = 20_000 // names in a directory
	maxAddons    = 2000   // VPK files
	maxMapName   = 200    // bytes, of titles and modes too
	maxUnread    = 100
	maxMapsFound = 100_000
	// maxMapsText is how long an answer is, in bytes, without what could not be read: that is at most as much again.
	maxMapsText = units.MaxAnswer / 2
)

// finder looks for maps.
type finder struct {
	layers []int // descriptors, highest first
	hidden map[string]bool
	addons int
	found  int // maps and modes

	missions []mission
	loose    []order.Map // in the order in which they were found
	known    map[string]bool
	result   order.MapsResult
}

// mission is what a mission file says.
type mission struct {
	title string
	order.Map
	maps  []string
	modes map[string][]string // of each map, in lower case
}

func listMaps(w *worker) (outcome, error) {
	var q order.Maps
	if err := order.Read(w.stdin, &q); err != nil {
		return outcome{}, usageError{fmt.Errorf("the order cannot be used: %w", err)}
	}
	f := &finder{hidden: map[string]bool{}, known: map[string]bool{}}
	defer f.close()
	for _, layer := range q.Layers {
		fd, err := unix.Open(layer, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return outcome{}, fmt.Errorf("%s: %w", layer, err)
		}
		f.layers = append(f.layers, fd)
	}
	f.find()
	return outcome{}, json.NewEncoder(w.stdout).Encode(f.answer(q.Most))
}

func (f *finder) close() {
	for _, fd := range f.layers {
		unix.Close(fd)
	}
}

// isMod tells the directories that the game has its files in.
func isMod(name string) bool {
	return name == "left4dead2" || name == "update" || strings.HasPrefix(name, "left4dead2_dlc")
}

func (f *finder) find() {
	for layer := range f.layers {
		for _, mod := range f.names(layer, ".") {
			if !isMod(mod) || f.hidden[mod] {
				continue
			}
			if f.isDir(layer, mod) {
				f.mod(layer, mod)
			}
		}
	}
}

// mod looks into one of the directories of the game in one layer.
func (f *finder) mod(layer int, mod string) {
	for _, where := range [][2]string{{"addons", ".vpk"}, {"missions", ".txt"}, {"maps", ".bsp"}, {".", "_dir.vpk"}} {
		dir, ext := path.Join(mod, where[0]), where[1]
		if f.hidden[dir] || !f.isDir(layer, dir) {
			continue
		}
		for _, name := range f.names(layer, dir) {
			if !strings.HasSuffix(strings.ToLower(name), ext) || dir == mod && !strings.HasPrefix(name, "pak") {
				continue
			}
			if file := path.Join(dir, name); !f.hidden[file] {
				f.hidden[file] = true
				f.file(layer, file)
			}
		}
	}
}

// isDir tells whether a layer has a directory. What else it has under that name hides what the layers below have there.
func (f *finder) isDir(layer int, dir string) bool {
	fd, err := units.OpenBeneath(f.layers[layer], dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	switch {
	case err == nil:
		unix.Close(fd)
		return true
	case !errors.Is(err, unix.ENOENT):
		f.hidden[dir] = true
	}
	return false
}

// names are those in a directory, in their order.
func (f *finder) names(layer int, dir string) []string {
	fd, err := units.OpenBeneath(f.layers[layer], dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	d := os.NewFile(uintptr(fd), dir)
	defer d.Close()
	names, err := d.Readdirnames(maxModDir)
	if err != nil && err != io.EOF {
		f.unread(layer, dir, err)
	}
	if len(names) == maxModDir {
		f.result.More = true
	}
	slices.Sort(names)
	return names
}

func (f *finder) unread(layer int, file string, err error) {
	if len(f.result.Unread) < maxUnread {
		f.result.Unread = append(f.result.Unread, order.Unread{Layer: layer, File: units.FileText(file), Reason: short(err.Error())})
	}
}

func (f *finder) file(layer int, file string) {
	fd, err := units.OpenBeneath(f.layers[layer], file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		// A removed file is a device that nobody can open here.
		if !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENODEV) {
			f.unread(layer, file, err)
		}
		return
	}
	in := os.NewFile(uintptr(fd), file)
	defer in.Close()
	info, err := in.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	from := order.Map{Layer: layer, File: units.FileText(file)}
	switch ext := strings.ToLower(extension(file)); ext {
	case ".bsp":
		f.addMap(strings.TrimSuffix(path.Base(file), extension(file)), from)
	case ".txt":
		text, err := io.ReadAll(io.LimitReader(in, maxMission+1))
		if err == nil && len(text) > maxMission {
			err = fmt.Errorf("it has more than %d bytes", maxMission)
		}
		if err == nil {
			err = f.addMission(text, from)
		}
		if err != nil {
			f.unread(layer, file, err)
		}
	case ".vpk":
		if f.addons++; f.addons > maxAddons {
			f.result.More = true
			return
		}
		if err := f.addon(in, info.Size(), from, file); err != nil {
			f.unread(layer, file, err)
		}
	}
}

// addon looks into a VPK file.
func (f *finder) addon(in *os.File, size int64, from order.Map, file string) error {
	p, err := valve.Open(in, size)
	if err != nil {
		return err
	}
	var failed error
	err = p.Each(func(e *valve.File) bool {
		switch {
		case strings.EqualFold(e.Dir, "maps") && strings.EqualFold(e.Ext, "bsp"):
			f.addMap(e.Base, from)
		case strings.EqualFold(e.Dir, "missions") && strings.EqualFold(e.Ext, "txt"):
			text, err := p.Read(e, maxMission, func(n int) (io.ReaderAt, error) { return f.beside(file, n) })
			if err == nil {
				err = f.addMission(text, from)
			}
			if err != nil {
				failed = fmt.Errorf("%q: %w", short(e.Path()), err)
			}
		}
		return len(f.missions) <= maxMissions
	})
	return cmp.Or(err, failed)
}

// beside is the file number n of a package, from the highest layer that has it. Few missions are there, so each is opened anew.
func (f *finder) beside(file string, n int) (io.ReaderAt, error) {
	name, ok := strings.CutSuffix(file, "_dir.vpk")
	if !ok {
		return nil, errors.New("it is in another file")
	}
	name = fmt.Sprintf("%s_%03d.vpk", name, n)
	for layer := range f.layers {
		fd, err := units.OpenBeneath(f.layers[layer], name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &once{os.NewFile(uintptr(fd), name)}, nil
	}
	return nil, fmt.Errorf("%s is missing", path.Base(name))
}

// once is closed by its first and only reading.
type once struct{ *os.File }

func (o *once) ReadAt(p []byte, at int64) (int, error) {
	defer o.Close()
	return o.File.ReadAt(p, at)
}

// word is a text of a mission as it can be shown, "" if it is too long to be one.
func word(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxMapName || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return ""
	}
	return strings.Clone(s) // the text that it is from is not kept
}

// more tells whether there is room for one more map, or mode of one.
func (f *finder) more() bool {
	if f.found == maxMapsFound {
		f.result.More = true
		return false
	}
	f.found++
	return true
}

func (f *finder) addMap(name string, from order.Map) {
	if name = word(name); name == "" || f.known[strings.ToLower(name)] || !f.more() {
		return
	}
	f.known[strings.ToLower(name)] = true
	from.Name = name
	f.loose = append(f.loose, from)
}

func (f *finder) addMission(text []byte, from order.Map) error {
	if len(f.missions) == maxMissions {
		f.result.More = true
		return nil
	}
	root, err := keyvalues.Parse(text, false)
	m := root.Find("mission")
	if m == nil {
		if err == nil {
			err = errors.New("it names no mission")
		}
		return err
	}
	title, name := word(m.Text("DisplayTitle")), word(m.Text("Name"))
	if title == "" || title[0] == '#' { // stands for a text in the player's language
		title = cmp.Or(name, title)
	}
	found := mission{title: title, Map: from, modes: map[string][]string{}}
	modes := m.Find("modes")
	if modes == nil {
		return err
	}
	for _, mode := range modes.Children {
		what := strings.ToLower(word(mode.Key))
		for _, chapter := range mode.Children {
			name := word(chapter.Text("Map"))
			key := strings.ToLower(name)
			if name == "" || found.modes[key] == nil && !f.more() {
				continue
			}
			if found.modes[key] == nil {
				found.maps = append(found.maps, name)
				found.modes[key] = []string{}
			}
			// Those of one mode stand together.
			if n := len(found.modes[key]); what != "" && (n == 0 || found.modes[key][n-1] != what) && f.more() {
				found.modes[key] = append(found.modes[key], what)
			}
		}
	}
	f.missions = append(f.missions, found)
	return err // what was understood before it counts
}

// answer puts together what was found.
func (f *finder) answer(most int) order.MapsResult {
	slices.SortStableFunc(f.missions, func(a, b mission) int {
		return cmp.Or(strings.Compare(a.title, b.title), cmp.Compare(a.Layer, b.Layer), strings.Compare(a.File, b.File))
	})
	named := map[string]bool{}
	size := 0
	add := func(m order.Map) {
		if text, err := json.Marshal(m); err == nil && size <= maxMapsText {
			size += len(text) + 1
		}
		if len(f.result.Maps) >= most || size > maxMapsText {
			f.result.More = true
			return
		}
		f.result.Maps = append(f.result.Maps, m)
	}
	for _, m := range f.missions {
		for _, name := range m.maps {
			row := m.Map
			row.Name, row.Campaign, row.Modes = name, m.title, m.modes[strings.ToLower(name)]
			named[strings.ToLower(name)] = true
			add(row)
		}
	}
	slices.SortStableFunc(f.loose, func(a, b order.Map) int { return strings.Compare(a.Name, b.Name) })
	for _, m := range f.loose {
		if !named[strings.ToLower(m.Name)] {
			add(m)
		}
	}
	return f.result
}
