// Package gametree makes the stand-in of an installed Left 4 Dead 2 dedicated server: a directory of a few dozen small
// files with the names, modes and links of the real one, whose server program is the stand-in of left4.me/left4/test/standin.
package gametree

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"left4.me/left4/test/steam/vpk"
)

// Version is the PatchVersion of the tree's steam.inf, which a running server tells in its A2S_INFO answer.
const Version = "2.2.4.3"

//go:embed srcds_run
var wrapper []byte

// Maps are the names of the maps that the tree has.
var Maps = strings.Fields(`
	c1m1_hotel c1m2_streets c1m3_mall c1m4_atrium
	c2m1_highway c2m2_fairgrounds c2m3_coaster c2m4_barns c2m5_concert
	c3m1_plankcountry c3m2_swamp c3m3_shantytown c3m4_plantation
	c4m1_milltown_a c4m2_sugarmill_a c4m3_sugarmill_b c4m4_milltown_b c4m5_milltown_escape
	c5m1_waterfront c5m2_park c5m3_cemetery c5m4_quarter c5m5_bridge
	c6m1_riverbank c6m2_bedlam c6m3_port
	c7m1_docks c7m2_barge c7m3_port
	c8m1_apartment c8m2_subway c8m3_sewers c8m4_interior c8m5_rooftop
	c9m1_alleys c9m2_lots
	c10m1_caves c10m2_drainage c10m3_ranchhouse c10m4_mainstreet c10m5_houseboat
	c11m1_greenhouse c11m2_offices c11m3_garage c11m4_terminal c11m5_runway
	c12m1_hilltop c12m2_traintunnel c12m3_bridge c12m4_barn c12m5_cornfield
	c13m1_alpinecreek c13m2_southpinestream c13m3_memorialbridge c13m4_cutthroatcreek
	c14m1_junkyard c14m2_lighthouse`)

// The configuration has no rcon_password: a server that nobody configured accepts no RCON.
const serverConfig = `// server.cfg of the base game
hostname "Left 4 Dead 2"
sv_lan 0
sv_region 255
sv_tags "base"
exec banned_user.cfg
exec banned_ip.cfg
`

const gameInfo = `"GameInfo"
{
	game	"Left 4 Dead 2"
	type	multiplayer_only
	FileSystem
	{
		SteamAppId	550
		SearchPaths
		{
			Game	|gameinfo_path|.
		}
	}
}
`

// Build compiles the stand-in server to the file out. The program is static, so that it runs in a root without
// libraries, and on amd64 it is a 32-bit one like the game's: a sandbox that forbids the i386 system calls stops it.
// It calls the go command, which must find the module left4.me/left4 from the working directory.
func Build(ctx context.Context, out string) error {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "386"
	}
	out, err := filepath.Abs(out)
	if err != nil {
		return fmt.Errorf("cannot build the stand-in server: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, "left4.me/left4/test/standin")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build the stand-in server: %w\n%s", err, text)
	}
	return nil
}

// Write makes the game tree in the directory dir, which it creates if it is missing; files of that name are replaced.
// A copy of the program at the path binary becomes the tree's srcds_linux. Modes are 0755 and 0644, whatever the umask.
func Write(dir, binary string) error {
	if err := write(dir, binary); err != nil {
		return fmt.Errorf("cannot write the game tree: %w", err)
	}
	return nil
}

func write(dir, binary string) error {
	files := map[string]string{
		"bin/steamclient.so":                  "stand-in of the 32-bit steamclient\n",
		"bin/engine_srv.so":                   "stand-in of the engine\n",
		"linux64/steamclient.so":              "stand-in of the 64-bit steamclient\n",
		"steam_appid.txt":                     "550\n",
		"steamapps/appmanifest_222860.acf":    "\"AppState\"\n{\n\t\"appid\"\t\"222860\"\n\t\"StateFlags\"\t\"4\"\n\t\"buildid\"\t\"1\"\n}\n",
		"left4dead2/gameinfo.txt":             gameInfo,
		"left4dead2/steam.inf":                "PatchVersion=" + Version + "\nProductName=left4dead2\nappID=550\nServerAppID=222860\n",
		"left4dead2/cfg/server.cfg":           serverConfig,
		"left4dead2/cfg/valve.rc":             "// empty\n",
		"left4dead2/missions/campaign1.txt":   "\"mission\"\n{\n\t\"Name\"\t\"L4D2C1\"\n}\n",
		"left4dead2/pak01_dir.vpk":            archive(),
		"left4dead2/scripts/vscripts/dir.nut": "// stand-in of a script\n",
	}
	for _, name := range Maps {
		files["left4dead2/maps/"+name+".bsp"] = "VBSP stand-in of " + name + "\n"
	}
	for _, name := range []string{".", "left4dead2/addons", ".steam/sdk32", ".steam/sdk64"} {
		if err := makeDirectory(dir, name); err != nil {
			return err
		}
	}
	for name, text := range files {
		if err := makeDirectory(dir, filepath.Dir(name)); err != nil {
			return err
		}
		if err := makeFile(filepath.Join(dir, name), strings.NewReader(text), 0o644); err != nil {
			return err
		}
	}
	// SteamAPI looks for these below HOME, and without them the server is a LAN server.
	for name, target := range map[string]string{
		".steam/sdk32/steamclient.so": "../../bin/steamclient.so",
		".steam/sdk64/steamclient.so": "../../linux64/steamclient.so",
	} {
		path := filepath.Join(dir, name)
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if err := os.Symlink(target, path); err != nil {
			return err
		}
	}
	if err := makeFile(filepath.Join(dir, "srcds_run"), strings.NewReader(string(wrapper)), 0o755); err != nil {
		return err
	}
	program, err := os.Open(binary)
	if err != nil {
		return err
	}
	defer program.Close()
	return makeFile(filepath.Join(dir, "srcds_linux"), program, 0o755)
}

// archive is the game's own, with a mission file for each campaign: the maps that begin alike.
func archive() string {
	campaigns := map[string][]string{}
	var names []string
	content := map[string][]byte{}
	for _, level := range Maps {
		campaign, _, _ := strings.Cut(level, "m")
		if campaigns[campaign] == nil {
			names = append(names, missionName(campaign))
		}
		campaigns[campaign] = append(campaigns[campaign], level)
	}
	for campaign, maps := range campaigns {
		content[missionName(campaign)] = []byte(vpk.Mission("L4D2"+strings.ToUpper(campaign), maps))
	}
	return string(vpk.Make(names, content))
}

func missionName(campaign string) string { return "missions/campaign" + campaign[1:] + ".txt" }

// makeDirectory creates dir/name and what is missing of name on the way.
func makeDirectory(dir, name string) error {
	if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
		return err
	}
	for ; ; name = filepath.Dir(name) {
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil || name == "." {
			return err
		}
	}
}

func makeFile(path string, content io.Reader, mode os.FileMode) error {
	// A child that this process begins has all its open files until it runs its own program, and what anybody has open
	// for writing cannot be executed: no child may begin before the file is closed.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	// A program that runs cannot be written to, but it can be replaced.
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err == nil {
		err = file.Chmod(mode)
	}
	if e := file.Close(); err == nil {
		err = e
	}
	return err
}
