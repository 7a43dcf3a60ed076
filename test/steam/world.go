// Package steam is a stand-in for what left4 meets of Steam: the Web API of the workshop and the servers of its files, SteamCMD and
// DepotDownloader. It says what the real ones are recorded to say, and breaks in the ways that they are recorded to break.
//
// A World is what there is; a Server serves it over HTTP, to the workshop's clients as to the two programs; Run is these programs.
package steam

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"left4.me/left4/test/steam/vpk"
)

// The apps that there are.
const (
	GameApp   = 550    // whose workshop it is
	ServerApp = 222860 // what SteamCMD installs
	// workshopApp makes collections; GetPublishedFileDetails tells it as their creator_app_id.
	workshopApp = 766
)

// World is what Steam has. Tests write one as a whole and change it as a whole.
type World struct {
	Items       map[string]Item    `json:",omitempty"` // by id
	Collections map[string][]Child `json:",omitempty"` // by id
	Game        Game
	Faults      []Fault `json:",omitempty"`
}

// Item is one add-on in the workshop.
type Item struct {
	Title   string
	Updated int64 // time_updated
	// Filename is told as it is; "" = "myl4d2addons/" and a name made of the title, as the game's own uploader makes it.
	Filename string `json:",omitempty"`
	// Size is that of the file, which is a VPK and longer than its content needs; 0 = as long as that.
	Size int64 `json:",omitempty"`
	// Campaign has a mission file of that name, and maps, in the VPK; "" = neither.
	Campaign string   `json:",omitempty"`
	Maps     []string `json:",omitempty"`
	// Content is the file, in place of a VPK.
	Content []byte `json:",omitempty"`

	// What is told in place of what is true.
	App        int             `json:",omitempty"` // consumer_app_id, 0 = GameApp
	FileSize   json.RawMessage `json:",omitempty"` // nil = the size, as a string in items of even id and as a number in the others
	URL        string          `json:",omitempty"` // "" = where the file is
	NoURL      bool            `json:",omitempty"` // file_url is empty: it is in a depot, where DepotDownloader finds it
	Result     int             `json:",omitempty"` // 0 = 1, all is well; 9 = no such item
	Visibility int             `json:",omitempty"` // 0 = public, 1 = friends, 2 = hidden, 3 = unlisted
	Banned     bool            `json:",omitempty"`
}

// Child is what a collection has.
type Child struct {
	ID         string
	Collection bool `json:",omitempty"` // filetype 2 in place of 0
}

// Game is the newest build of the dedicated server: a tree of files that a Server was given, and what is different from it.
type Game struct {
	Build string            // "" = there is no such app
	Files map[string]string `json:",omitempty"` // other content
	Sizes map[string]int64  `json:",omitempty"` // content of that length, which is another in each build
	Gone  []string          `json:",omitempty"`
	// Linux is that it can be installed for Linux alone. It cannot since November 2024: "Invalid platform", unless a pass for Windows
	// has left its manifest (https://github.com/ValveSoftware/steam-for-linux/issues/11522).
	Linux bool `json:",omitempty"`
	// Pace is a pause after each progress line.
	Pace Duration `json:",omitempty"`
}

// Fault is what goes wrong. The first one that fits an event befalls it.
type Fault struct {
	// On is "collections" or "details" of the Web API, "file" of its files, "depot" of the game's files, "steamcmd" or "depotdownloader".
	On string
	// Only narrows it: to requests that name this id, to files whose path ends so, to runs that have this word in their arguments.
	Only  string `json:",omitempty"`
	After int    `json:",omitempty"` // so many events go well before
	Times int    `json:",omitempty"` // and then so many do not; 0 = all
	Kind  string // see README.md
	Code  int    `json:",omitempty"`
	Text  string `json:",omitempty"`
	Bytes int64  `json:",omitempty"`
	At    int    `json:",omitempty"` // percent
	Exit  *int   `json:",omitempty"` // exit status, nil = that of the real program
}

// Duration is Go's, as text in JSON.
type Duration time.Duration

func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

func (w World) check() error {
	for id := range w.Items {
		if !digits.MatchString(id) {
			return fmt.Errorf("item %q: an id has digits only", id)
		}
	}
	for _, names := range [][]string{slices.Collect(maps.Keys(w.Game.Files)), slices.Collect(maps.Keys(w.Game.Sizes))} {
		for _, name := range names {
			if !beneath(name) {
				return fmt.Errorf("file %q of the game: it is not beneath it", name)
			}
		}
	}
	for n, f := range w.Faults {
		if !slices.Contains(faultKinds[f.On], f.Kind) {
			return fmt.Errorf("fault %d: there is no %q of %q", n, f.Kind, f.On)
		}
	}
	return nil
}

var digits = regexp.MustCompile(`^[0-9]+$`)

var (
	httpKinds  = []string{"status", "cut", "length", "endless", "stall", "reset", "redirect", "html", "no-ranges", "garbage", "slow"}
	faultKinds = map[string][]string{
		"collections": httpKinds, "details": httpKinds, "file": httpKinds, "depot": httpKinds,
		"steamcmd":        {"failed", "state", "hang", "crash", "garbage", "no-connection", "user-info", "rate-limit", "appinfo-timeout", "appinfo-late", "stale"},
		"depotdownloader": {"unavailable", "401", "hang", "crash", "no-modes"},
	}
)

// tells of a fault whether it fits an event of a kind that has these names.
func (f Fault) fits(on string, names ...string) bool {
	return f.On == on && (f.Only == "" || slices.ContainsFunc(names, func(name string) bool {
		return name == f.Only || strings.HasSuffix(name, "/"+f.Only)
	}))
}

// file is the item's file.
func (i Item) file(id string) []byte {
	if i.Content != nil {
		return i.Content
	}
	return addon(id, i)
}

// addon is the VPK of an item: its add-on's description, its campaign, and bytes up to its size.
func addon(id string, i Item) []byte {
	names := []string{"addoninfo.txt"}
	content := map[string][]byte{
		"addoninfo.txt": fmt.Appendf(nil, "\"AddonInfo\"\n{\n\t\"addontitle\"\t%q\n\t\"addonversion\"\t\"%d\"\n}\n", i.Title, i.Updated),
	}
	add := func(name string, b []byte) {
		names = append(names, name)
		content[name] = b
	}
	if i.Campaign != "" {
		add("missions/"+i.Campaign+".txt", []byte(vpk.Mission(i.Campaign, i.Maps)))
	}
	for _, m := range i.Maps {
		add("maps/"+m+".bsp", []byte("VBSP stand-in of "+m+"\n"))
	}
	const filler = "materials/filler.vtf"
	add(filler, nil)
	if rest := i.Size - int64(len(vpk.Make(names, content))); rest > 0 {
		content[filler] = made(fmt.Sprint(id, i.Updated), rest)
	}
	return vpk.Make(names, content)
}

// sum stands in the file's address: another state of the item has another address.
func (i Item) sum(id string) string {
	sum := sha1.Sum(fmt.Appendf(nil, "%s %d %d", id, i.Updated, i.Size))
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

var unfit = regexp.MustCompile(`[^a-z0-9]+`)

func (i Item) filename() string {
	if i.Filename != "" {
		return i.Filename
	}
	return "myl4d2addons/" + strings.Trim(unfit.ReplaceAllString(strings.ToLower(i.Title), "_"), "_") + ".vpk"
}

// A depotFile is one file of the game.
type depotFile struct {
	Path string
	Size int64
	SHA1 string
	Exec bool `json:",omitempty"`
}

// A manifest is what one platform gets of a build. Its files are sorted.
type manifest struct {
	Build, Platform string
	ID              string // the real one has 64 bits, and so has this one
	Files           []depotFile
}

func (m manifest) size() (all int64) {
	for _, f := range m.Files {
		all += f.Size
	}
	return all
}

// windowsFiles are those that only a pass for Windows leaves.
var windowsFiles = []string{"srcds.exe", "bin/engine.dll", "bin/steamclient.dll"}

// content is a file of the game for a platform; false = there is none. What a test has not changed comes from the tree in dir.
func (g Game) content(dir, platform, name string) (content []byte, exec, found bool) {
	linux := strings.HasSuffix(name, ".so") || strings.HasPrefix(name, "srcds_")
	windows := slices.Contains(windowsFiles, name)
	if slices.Contains(g.Gone, name) || linux && platform != "linux" || windows && platform != "windows" {
		return nil, false, false
	}
	info, err := os.Stat(filepath.Join(dir, name))
	exec = err == nil && info.Mode()&0o100 != 0
	if text, ok := g.Files[name]; ok {
		return []byte(text), exec, true
	}
	if n, ok := g.Sizes[name]; ok {
		return made(g.Build+" "+name, n), exec, true
	}
	if windows {
		return []byte("MZ stand-in of " + name + "\n"), false, true
	}
	if err != nil || !info.Mode().IsRegular() {
		return nil, false, false
	}
	content, err = os.ReadFile(filepath.Join(dir, name))
	return content, exec, err == nil
}

// manifest lists the files of the build for a platform. The links of SteamAPI and SteamCMD's own files are no part of it.
func (g Game) manifest(dir, platform string) (manifest, error) {
	m := manifest{Build: g.Build, Platform: platform}
	names := slices.Clone(windowsFiles)
	for name := range g.Files {
		names = append(names, name)
	}
	for name := range g.Sizes {
		names = append(names, name)
	}
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || dir == "" {
			return err
		}
		name, err = filepath.Rel(dir, name)
		if name == "steamapps" || name == ".steam" {
			return filepath.SkipDir
		}
		if e.Type().IsRegular() {
			names = append(names, name)
		}
		return err
	})
	if err != nil && dir != "" {
		return m, err
	}
	slices.Sort(names)
	sum := sha1.New()
	for _, name := range slices.Compact(names) {
		content, exec, found := g.content(dir, platform, name)
		if !found {
			continue
		}
		one := sha1.Sum(content)
		m.Files = append(m.Files, depotFile{Path: name, Size: int64(len(content)), SHA1: hex.EncodeToString(one[:]), Exec: exec})
		fmt.Fprintf(sum, "%s %x\n", name, one)
	}
	m.ID = strconv.FormatUint(binary.BigEndian.Uint64(sum.Sum(nil)), 10)
	return m, nil
}

// made is content of a length that looks like no other's, and does not compress away.
func made(seed string, n int64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b) // it never fails
	return b
}

// beneath is a name that stays below a directory.
func beneath(name string) bool { return name != "" && path.Clean("/" + name)[1:] == name }

// writeFile replaces a file; who runs it goes on with the old one.
func writeFile(name string, content io.Reader, mode os.FileMode) error {
	// What a child that begins meanwhile would hold open for writing could not be executed.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

func writeText(name, text string, mode os.FileMode) error {
	return writeFile(name, bytes.NewReader([]byte(text)), mode)
}
