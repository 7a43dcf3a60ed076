package steam

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The texts are as recorded in issues of GameServerManagers/LinuxGSM (4754, 356), ValveSoftware/steam-for-linux (11522, 4341, 12200,
// 10418), ValveSoftware/halflife (1583), joedwards32/CS2 (31), steamcmd/docker (65), alinmear/docker-conanexiles (17).

//go:embed steamcmd.sh
var steamcmdScript string

const clientVersion = "1782532820"

// Exit statuses: https://github.com/ValveSoftware/steam-for-linux/issues/4341.
const (
	exitOther    = 1
	exitLogin    = 5
	exitFailed   = 8
	exitRestart  = 42
	serverName   = "Left 4 Dead 2 Dedicated Server"
	installDir   = "steamapps/common/" + serverName
	updatedFile  = "package/steam_cmd_linux.installed"
	manifestName = "steamapps/appmanifest_222860.acf"
	stagingName  = "steamapps/downloading/222860"
)

// WriteSteamCMD makes the files of Valve's archive in a directory. binary is a program that calls Program.
func WriteSteamCMD(dir, binary string) error {
	if err := copyFile(filepath.Join(dir, "linux32/steamcmd"), binary, 0o755); err != nil {
		return err
	}
	for name, mode := range map[string]os.FileMode{
		"linux32/crashhandler.so": 0o755, "linux32/libstdc++.so.6": 0o755, "linux32/steamclient.so": 0o755,
		"linux32/steamerrorreporter": 0o755, "linux64/steamclient.so": 0o755,
	} {
		if err := writeText(filepath.Join(dir, name), "stand-in of SteamCMD's "+name+"\n", mode); err != nil {
			return err
		}
	}
	return writeText(filepath.Join(dir, "steamcmd.sh"), steamcmdScript, 0o755)
}

func copyFile(to, from string, mode os.FileMode) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeFile(to, f, mode)
}

// cmd is one run of SteamCMD.
type cmd struct {
	*program
	root, data string // where it lies itself, and where it keeps things
	target     string // force_install_dir
	platform   string
	online     bool
	reachable  bool
	status     int
}

func (p *program) steamcmd(args []string) int {
	c := &cmd{program: p, root: filepath.Dir(p.dir), data: filepath.Join(p.home, "Steam"), platform: "linux"}
	c.target = filepath.Join(c.data, installDir)
	if err := canExecute(); err != nil {
		fmt.Fprintln(os.Stderr, "steamcmd: error while loading shared libraries: cannot restore segment prot after reloc:", err)
		return 127
	}
	if err := os.MkdirAll(filepath.Join(c.data, "logs"), 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	c.out.printf("Redirecting stderr to '%s/logs/stderr.txt'\nLogging directory: '%[1]s/logs'\n", c.data)
	c.out.printf("[  0%%] Checking for available updates...\n[----] Verifying installation...\n")
	if _, err := os.Stat(filepath.Join(c.root, updatedFile)); err != nil {
		return c.updateItself()
	}
	var err error
	c.orders, err = c.client.begin("steamcmd", args)
	c.reachable = err == nil
	c.out.printf("UpdateUI: skip show logo\nSteam Console Client (c) Valve Corporation - version %s\n-- type 'quit' to exit --\nLoading Steam API...OK\n", clientVersion)
	if c.console(args) {
		return c.status
	}
	// Without a quit it asks for more.
	for lines := bufio.NewScanner(os.Stdin); ; {
		c.out.printf("\nSteam>")
		c.out.flush()
		if !lines.Scan() {
			return c.status
		}
		if words := strings.Fields(lines.Text()); len(words) > 0 {
			words[0] = "+" + words[0]
			if c.console(words) {
				return c.status
			}
		}
	}
}

// updateItself is what the first run does: it needs Steam, and its own directory to write to.
func (c *cmd) updateItself() int {
	if _, err := c.client.Requests(false); err != nil {
		c.out.printf("[----] !!! Fatal Error: Steamcmd needs to be online to update.  Please confirm your network connection and try again.\n")
		return exitOther
	}
	c.out.printf("[  0%%] Downloading update...\n[  0%%] Checking for available updates...\n[----] Download complete.\n")
	if err := writeText(filepath.Join(c.root, updatedFile), clientVersion+"\n", 0o644); err != nil {
		// No record of what the real one says here was found.
		c.out.printf("[----] Failed to write to its directory: %v\n", err)
		return exitOther
	}
	for _, step := range []string{"Extracting package", "Extracting package", "Installing update", "Installing update", "Cleaning up"} {
		c.out.printf("[----] %s...\n", step)
	}
	c.out.printf("[----] Update complete, launching Steamcmd...\n")
	return exitRestart
}

// console executes commands, each with a + before it; true = it has quit.
func (c *cmd) console(words []string) bool {
	for len(words) > 0 {
		end := 1
		for end < len(words) && !strings.HasPrefix(words[end], "+") {
			end++
		}
		name, args := strings.TrimPrefix(words[0], "+"), words[1:end]
		words = words[end:]
		arg := func(n int) string {
			if n < len(args) {
				return args[n]
			}
			return ""
		}
		switch name {
		case "quit", "exit":
			c.out.printf("Unloading Steam API...OK\n")
			return true
		case "force_install_dir":
			c.forceInstallDir(arg(0))
		case "login":
			if !c.login(arg(0)) {
				c.status = exitLogin
				return true
			}
		case "app_update":
			c.appUpdate(arg(0), len(args) > 1 && args[len(args)-1] == "validate")
		case "app_info_update":
		case "app_info_print":
			c.appInfoPrint(arg(0))
		case "@sSteamCmdForcePlatformType":
			c.out.printf("%q = %q\n", name, arg(0))
			if !c.online { // no longer after the login
				c.platform = arg(0)
			}
		default:
			if strings.HasPrefix(name, "@") {
				c.out.printf("%q = %q\n", name, arg(0))
				continue
			}
			c.out.printf("Command not found: %s\n", name)
		}
	}
	return false
}

func (c *cmd) forceInstallDir(dir string) {
	if c.online {
		c.out.printf("Please use force_install_dir before logon!\n")
		return
	}
	// It changes to its own directory.
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(c.root, dir)
	}
	c.target = dir
}

func (c *cmd) login(who string) bool {
	if who != "anonymous" {
		c.out.printf("Logging in user '%s' to Steam Public...FAILED (Invalid Password)\n", who)
		return false
	}
	c.out.printf("\nConnecting anonymously to Steam Public...")
	switch {
	case !c.reachable || c.befalls("no-connection") != nil:
		c.out.printf("Retrying...\nRetrying...\nRetrying...\nRetrying...\nFAILED (No Connection)\n")
		return false
	case c.befalls("rate-limit") != nil:
		c.out.printf("FAILED (Rate Limit Exceeded)\n")
		return false
	}
	c.out.printf("OK\nWaiting for client config...OK\nWaiting for user info...")
	if c.befalls("user-info") != nil {
		c.out.printf("FAILED (Timed out)\n")
		return false
	}
	c.out.printf("OK\n")
	c.online = true
	return true
}

// exit sets the status, or the one that a fault wants.
func (c *cmd) exit(status int) {
	c.status = status
	if f := c.orders.Fault; f != nil && f.Exit != nil {
		c.status = *f.Exit
	}
}

func (c *cmd) appUpdate(app string, validate bool) {
	failed := func(why string) {
		c.out.printf("ERROR! Failed to install app '%s' (%s)\n", app, why)
		c.exit(exitFailed)
	}
	f := c.befalls("failed")
	switch {
	case !c.online:
		c.out.printf("ERROR! Failed to request AppInfo update, not online or not logged in to Steam.\n")
		c.exit(exitFailed)
	case c.befalls("appinfo-timeout") != nil:
		c.out.printf("ERROR! Timed out waiting for AppInfo update.\n")
		c.exit(exitOther)
	case f != nil:
		failed(f.Text)
	case app != "222860" || c.orders.Build == "":
		failed("No subscription")
	case c.platform == "linux" && !c.orders.Linux && c.manifestText() == "":
		failed("Invalid platform")
	default:
		switch err := c.install(validate).(type) {
		case nil:
		case stateError:
			c.out.printf("Error! App '%s' state is 0x%X after update job.\n", app, int(err))
			c.exit(exitFailed)
		case misfortune:
			if err.Kind == "garbage" {
				c.out.printf("%s", strings.Repeat("\x1b[31m\xff\x00 Update state (0x61) downloading, progress: 1e999 (-1 / 99999999999999999999)", 3000))
				c.exit(0)
				return
			}
			c.strike(err.Fault)
		default:
			fmt.Fprintln(os.Stderr, err)
			if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
				failed("Disk write failure")
				return
			}
			c.out.printf("Error! App '%s' state is 0x%X after update job.\n", app, int(stateOf(err)))
			c.exit(exitFailed)
		}
	}
}

// stateError is the state of the app after a failed update, a sum of flags.
type stateError int

func (s stateError) Error() string { return fmt.Sprintf("state 0x%X", int(s)) }

// The states that the cases end in: https://github.com/zendesk/lancache-autofill names the flags.
const (
	stateNoSpace   = 0x202
	stateNoSpaceOn = 0x212 // while it downloads
	stateNetwork   = 0x402
	stateWrite     = 0x606
)

func stateOf(err error) stateError {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return stateNoSpaceOn
	case errors.Is(err, syscall.EIO):
		return stateWrite
	}
	return stateNetwork
}

func (c *cmd) manifestText() string {
	text, _ := os.ReadFile(filepath.Join(c.target, manifestName))
	return string(text)
}

func (c *cmd) line(code int, words string, done, total int64) {
	c.out.printf(" Update state (0x%x) %s, progress: %.2f (%d / %d)\n", code, words, percent(done, total), done, total)
}

// install brings the directory to the newest build.
func (c *cmd) install(validate bool) error {
	m, err := c.client.manifest(c.platform)
	if err != nil {
		return err
	}
	before := c.manifestText()
	last := readManifest(filepath.Join(c.data, "depotcache", "222861_"+value(before, "manifest")+".manifest"))
	whole := value(before, "StateFlags") == "4"
	c.keepAppInfo()
	if whole && !validate && value(before, "manifest") == m.ID {
		c.out.printf("Success! App '222860' already up to date.\n")
		return nil
	}
	c.line(0x3, "reconfiguring", 0, 0)
	t := &transfer{p: c.program, dir: c.target, staging: filepath.Join(c.target, stagingName), manifest: m, modes: true}
	var verify func(done, total int64)
	if validate {
		verify = func(done, total int64) { c.line(0x5, "verifying install", done, total) }
	}
	if err := t.plan(last, verify); err != nil {
		return err
	}
	acf := func(state int) error {
		build, id := value(before, "buildid"), value(before, "manifest")
		if state == 4 {
			build, id = m.Build, m.ID
		}
		return c.writeACF(state, build, id, m, t.done, t.total)
	}
	if err := os.MkdirAll(t.staging, 0o755); err != nil {
		return err
	}
	if err := acf(1026); err != nil {
		return err
	}
	var free unix.Statfs_t
	if err := unix.Statfs(t.staging, &free); err == nil && int64(free.Bavail)*int64(free.Bsize) < t.total {
		return stateError(stateNoSpace)
	}
	c.line(0x11, "preallocating", t.total, t.total)
	t.fetching = func() error { return acf(1026) }
	t.line = func(string) { c.line(0x61, "downloading", t.done, t.total) }
	if err := t.fetch(); err != nil {
		if e := acf(1026); e != nil {
			return e
		}
		if f, ok := err.(misfortune); ok && f.Kind == "state" {
			return stateError(f.Code)
		}
		return err
	}
	c.line(0x81, "verifying update", t.total, t.total)
	var placed int64
	t.line = func(string) {
		placed++
		c.line(0x101, "committing", t.total*placed/int64(len(t.changed)), t.total)
	}
	if err := t.place(); err != nil {
		return err
	}
	if err := os.RemoveAll(t.staging); err != nil {
		return err
	}
	if err := writeManifest(filepath.Join(c.data, "depotcache", "222861_"+m.ID+".manifest"), m); err != nil {
		return err
	}
	t.done = t.total
	if err := acf(4); err != nil {
		return err
	}
	c.out.printf("Success! App '222860' fully installed.\n")
	return nil
}

func (c *cmd) writeACF(state int, build, id string, m manifest, done, total int64) error {
	if build == "" {
		build = "0"
	}
	target := m.Build
	if state == 4 {
		target = "0"
	}
	var b strings.Builder
	b.WriteString("\"AppState\"\n{\n")
	for _, kv := range [][2]any{
		{"appid", ServerApp}, {"universe", 1}, {"LauncherPath", ""}, {"name", serverName}, {"StateFlags", state}, {"installdir", serverName},
		{"LastUpdated", 1}, {"LastPlayed", 0}, {"SizeOnDisk", m.size()}, {"StagingSize", 0}, {"buildid", build}, {"LastOwner", "76561197960265728"},
		{"UpdateResult", 0}, {"BytesToDownload", total}, {"BytesDownloaded", done}, {"BytesToStage", total}, {"BytesStaged", done},
		{"TargetBuildID", target}, {"AutoUpdateBehavior", 0}, {"AllowOtherDownloadsWhileRunning", 0}, {"ScheduledAutoUpdate", 0},
	} {
		fmt.Fprintf(&b, "\t\"%v\"\t\t\"%v\"\n", kv[0], kv[1])
	}
	b.WriteString("\t\"InstalledDepots\"\n\t{\n")
	if id != "" {
		fmt.Fprintf(&b, "\t\t\"222861\"\n\t\t{\n\t\t\t\"manifest\"\t\t\"%s\"\n\t\t\t\"size\"\t\t\"%d\"\n\t\t}\n", id, m.size())
	}
	b.WriteString("\t}\n\t\"UserConfig\"\n\t{\n\t}\n\t\"MountedConfig\"\n\t{\n\t}\n}\n")
	return writeText(filepath.Join(c.target, manifestName), b.String(), 0o644)
}

func (c *cmd) appInfo() string { return filepath.Join(c.data, "appcache/appinfo.vdf") }

// keepAppInfo keeps what Steam says of the app. The real file is binary.
func (c *cmd) keepAppInfo() {
	if err := writeText(c.appInfo(), c.orders.Build+"\n", 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// appInfoPrint prints what is known of the app. What was kept is printed as it is while the fault "stale" lasts.
func (c *cmd) appInfoPrint(app string) {
	text, err := os.ReadFile(c.appInfo())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(os.Stderr, err)
	}
	build := strings.TrimSpace(string(text))
	switch {
	case !c.online:
		c.out.printf("ERROR! Failed to request AppInfo update, not online or not logged in to Steam.\n")
		c.exit(exitFailed)
		return
	case c.befalls("appinfo-timeout") != nil:
		c.out.printf("ERROR! Timed out waiting for AppInfo update.\n")
		c.exit(exitOther)
		return
	case app != "222860" || c.orders.Build == "" || c.befalls("appinfo-late") != nil && build == "":
		c.out.printf("No app info for AppID %s found, requesting...\n", app)
		if app == "222860" && c.orders.Build != "" {
			c.keepAppInfo()
		}
		return
	case build == "" || c.befalls("stale") == nil:
		build = c.orders.Build
		c.keepAppInfo()
	}
	c.out.printf("AppID : %s, change number : 27032563/0, last change : Thu Jan  1 00:00:01 1970 \n", app)
	_, _ = io.WriteString(c.out.w, appInfoText(build))
	if c.out.tty {
		c.out.flush()
	}
}

// appInfoText has other builds too: of the game's other branches, and a manifest's number that looks like one.
func appInfoText(build string) string {
	return fmt.Sprintf(`"222860"
{
	"common"
	{
		"name"		"Left 4 Dead 2 Dedicated Server"
		"type"		"Tool"
		"oslist"		"windows,linux"
		"gameid"		"222860"
	}
	"config"
	{
		"contenttype"		"3"
		"installdir"		"Left 4 Dead 2 Dedicated Server"
		"launch"
		{
			"0"
			{
				"executable"		"srcds.exe"
				"type"		"server"
				"config"
				{
					"oslist"		"windows"
				}
			}
		}
	}
	"depots"
	{
		"222861"
		{
			"manifests"
			{
				"beta"
				{
					"gid"		"1"
				}
				"public"
				{
					"gid"		"2"
					"size"		"9300000000"
				}
			}
		}
		"branches"
		{
			"beta"
			{
				"buildid"		"1%s"
				"pwdrequired"		"1"
			}
			"public"
			{
				"buildid"		"%[1]s"
				"timeupdated"		"1"
			}
			"previous"
			{
				"buildid"		"2"
			}
		}
	}
}
`, build)
}
