package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
)

const (
	// app is the Left 4 Dead 2 Dedicated Server.
	app = "222860"
	// maxDelay bounds the pause between two tries, which doubles each time.
	maxDelay = 5 * time.Minute
)

// installer installs the game by SteamCMD, or by DepotDownloader where that is not to be had, into the current directory, which
// has the files of the game so far.
//
// Since November 2024 SteamCMD refuses an anonymous install for Linux with "Invalid platform". What helps everybody
// (github.com/ValveSoftware/steam-for-linux/issues/11522) is a pass for Windows and then one for Linux with validate. A game that SteamCMD has
// installed for Linux is known to it as such, so its update begins with the pass for Linux, and only when that fails as the first
// install would do the others follow: the pass for Windows costs some hundred megabytes, twice, and all of it would
// be in the delta.
type installer struct {
	order.Install
	ctx  context.Context
	w    *worker
	here string // the current directory
	dir  int    // a descriptor of it

	remote string // the newest build, "" = not known
}

func installGame(w *worker) (outcome, error) {
	in := installer{w: w}
	if err := order.Read(w.stdin, &in.Install); err != nil {
		return outcome{}, fmt.Errorf("the order cannot be read: %w", err)
	}
	if err := checkInstall(&in.Install); err != nil {
		return outcome{}, fmt.Errorf("the order is wrong: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	in.ctx = ctx
	// What a program leaves behind comes to this process, which ends it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return outcome{}, fmt.Errorf("the programs that it runs cannot be kept together: %w", err)
	}
	var err error
	if in.here, err = os.Getwd(); err != nil {
		return outcome{}, err
	}
	if in.dir, err = unix.Open(".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return outcome{}, err
	}
	defer unix.Close(in.dir)

	var made outcome
	if in.Check {
		made, err = in.check()
	} else {
		made, err = in.install()
	}
	switch {
	case err == nil:
		return made, nil
	case ctx.Err() != nil:
		return outcome{}, errors.New("it was stopped")
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return outcome{}, errors.New("disk full")
	}
	return outcome{}, err
}

func checkInstall(o *order.Install) error {
	for _, path := range []string{o.Home, o.SteamCMD, o.DepotDownloader} {
		if path != "" && (!filepath.IsAbs(path) || filepath.Clean(path) != path) {
			return fmt.Errorf("%q is no absolute path", path)
		}
	}
	switch {
	case o.Home == "":
		return errors.New("it has no Home")
	case o.Build != "" && !isBuild(o.Build):
		return fmt.Errorf("%q is no build", o.Build)
	case o.Tries < 1 || o.Tries > 100:
		return fmt.Errorf("%d tries", o.Tries)
	case o.RetryDelay < 0 || o.Silence <= 0:
		return fmt.Errorf("a pause of %s, a silence of %s", o.RetryDelay, o.Silence)
	}
	return nil
}

// isBuild tells whether text is the number of a build.
func isBuild(text string) bool {
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return text != "" && len(text) <= 20 && text[0] != '0'
}

func (in *installer) check() (outcome, error) {
	if in.SteamCMD == "" {
		if in.DepotDownloader != "" {
			// Not even with -manifest-only: it knows manifests of depots and no builds.
			return outcome{}, errors.New("DepotDownloader cannot tell which build there is, and SteamCMD is not there; " + getSteamCMD)
		}
		return outcome{}, errNoInstaller
	}
	steam, err := in.steamCMD()
	if err != nil {
		return outcome{}, err
	}
	if err := in.find(steam, in.Tries); err != nil {
		return outcome{}, err
	}
	return outcome{note: "build " + in.remote}, nil
}

const getSteamCMD = "install it (on Debian: apt install steamcmd, from non-free) or set SteamCMD= in /etc/left4/left4d.conf"

var errNoInstaller = errors.New("neither SteamCMD nor DepotDownloader is there; " + getSteamCMD)

// find finds out the newest build.
//
// What SteamCMD prints can be from its cache, so that goes first. Since the end of 2024 app_info_print does not wait for an answer
// that it has to ask for ("No app info for AppID 222860 found, requesting...", github.com/ValveSoftware/steam-for-linux/issues/9683
// and 11521): another run may find it in the cache, and so may a run that asks early and takes its time with a second login.
func (in *installer) find(steam string, tries int) error {
	removeAppInfo(in.Home)
	return in.retry(tries, func(try int, _ *failure) *failure {
		args := []string{"+login", "anonymous", "+app_info_update", "1", "+app_info_print", app, "+quit"}
		if try > 2 {
			args = []string{"+login", "anonymous", "+app_info_request", app, "+login", "anonymous", "+app_info_print", app, "+quit"}
		}
		var info appInfo
		fail := in.run(steamProgram, steam, args, "asking Steam which build there is", info.line)
		if build := info.build(); build != "" {
			in.remote = build
			return nil
		}
		if fail == nil {
			fail = &failure{program: steamProgram, class: classUnknown, cause: "it does not tell which build there is", retry: true}
		}
		return fail
	})
}

func (in *installer) install() (outcome, error) {
	fail := error(errNoInstaller)
	if in.SteamCMD != "" {
		made, err := in.bySteamCMD()
		var f *failure
		if err == nil || !errors.As(err, &f) || !f.class.elsewhere() || in.ctx.Err() != nil {
			return made, err
		}
		if in.DepotDownloader == "" && f.class != classProgram {
			return made, fmt.Errorf("%w; DepotDownloader may get it: set DepotDownloader= in /etc/left4/left4d.conf", err)
		}
		fail = err
	}
	if in.DepotDownloader == "" {
		return outcome{}, fail
	}
	if in.SteamCMD != "" {
		fmt.Fprintf(in.w.stderr, "left4-worker: %v; now by DepotDownloader\n", fail)
	}
	made, err := in.byDepotDownloader()
	if err != nil && in.SteamCMD != "" && in.ctx.Err() == nil {
		return outcome{}, fmt.Errorf("%w; %w", fail, err)
	}
	return made, err
}

func (in *installer) bySteamCMD() (outcome, error) {
	steam, err := in.steamCMD()
	if err != nil {
		return outcome{}, err
	}
	if in.Build != "" && !in.Validate {
		// Whether the update fails for the same reason will be seen: it must not depend on this.
		if err := in.find(steam, min(in.Tries, 3)); err != nil {
			if in.ctx.Err() != nil {
				return outcome{}, err
			}
			fmt.Fprintf(in.w.stderr, "left4-worker: cannot find out which build there is: %v\n", err)
		}
		if in.remote == in.Build {
			return in.upToDate(), nil
		}
	}
	before, _ := readManifest(in.dir) // one that cannot be read is as good as none
	// An update that was interrupted is still that of a game for Linux. What it has left is looked at.
	windows := !isBuild(before.build) || !in.isWhole()
	validate := in.Validate || windows || !before.installed()
	var unchanged bool
	err = in.retry(in.Tries, func(_ int, last *failure) *failure {
		if last != nil {
			// "No subscription" is what "Invalid platform" was called before.
			windows = windows || last.class == classPlatform || last.class == classSubscription
			// Whatever was amiss may have left its traces.
			validate = true
		}
		if windows {
			if fail := in.pass(steam, "windows", false, nil); fail != nil {
				return fail
			}
			windows = false
		}
		unchanged = false
		if fail := in.pass(steam, "linux", validate, &unchanged); fail != nil {
			return fail
		}
		return in.whole()
	})
	if err != nil {
		return outcome{}, err
	}
	now, err := readManifest(in.dir)
	if err != nil {
		return outcome{}, err
	}
	if unchanged && !validate && now.build == in.Build {
		return in.upToDate(), nil
	}
	return in.finish(steam, "build "+now.build)
}

var platformNames = map[string]string{"windows": "Windows", "linux": "Linux"}

func (in *installer) upToDate() outcome { return outcome{note: "build " + in.Build + " up to date"} }

// pass has SteamCMD install the game for one platform. force_install_dir comes before the login, or SteamCMD warns and may
// take no notice.
func (in *installer) pass(steam, platform string, validate bool, unchanged *bool) *failure {
	args := []string{"+force_install_dir", in.here, "+@sSteamCmdForcePlatformType", platform, "+login", "anonymous", "+app_update", app}
	if validate {
		args = append(args, "validate")
	}
	said := ""
	fail := in.run(steamProgram, steam, append(args, "+quit"), "files for "+platformNames[platform], func(line string) {
		if m := success.FindStringSubmatch(line); m != nil {
			said = m[1]
		}
	})
	// What comes after it has done its work is not looked at: it is known to hang or crash as it goes.
	if said != "" && in.ctx.Err() == nil {
		if unchanged != nil {
			*unchanged = said == "already up to date"
		}
		return nil
	}
	if fail == nil {
		fail = &failure{program: steamProgram, class: classUnknown, cause: "it ended without the game", retry: true}
	}
	return fail
}

func (in *installer) byDepotDownloader() (outcome, error) {
	if _, err := os.Stat(in.DepotDownloader); err != nil {
		return outcome{}, fmt.Errorf("DepotDownloader is not there: %w", err)
	}
	var got depots
	err := in.retry(in.Tries, func(int, *failure) *failure {
		got = depots{}
		args := []string{"-app", app, "-os", "linux", "-dir", in.here, "-validate"}
		fail := in.run(depotProgram, in.DepotDownloader, args, "files for Linux", got.line)
		switch {
		case got.count > 0 && in.isWhole():
			return nil // what failed meanwhile it has tried again
		case fail != nil:
			return fail
		case got.count > 0:
			return &failure{program: depotProgram, class: classIncomplete, cause: "there is no " + in.missing(), retry: true}
		}
		return &failure{program: depotProgram, class: classUnknown, cause: "it ended without the game", retry: true}
	})
	if err != nil {
		return outcome{}, err
	}
	// It does not know builds.
	build := "unknown"
	if in.remote != "" {
		build = in.remote
	}
	if got.bytes == 0 && got.known == got.count {
		return outcome{note: "build " + build + " up to date"}, nil
	}
	// It tells of what SteamCMD has installed, which this is not any more.
	if err := removeManifest(in.dir); err != nil {
		return outcome{}, err
	}
	return in.finish("", "build "+build)
}

// retry does work until it succeeds, fails for good, or has been tried so often.
func (in *installer) retry(tries int, work func(try int, last *failure) *failure) error {
	var last *failure
	for try, delay := 1, in.RetryDelay; ; try, delay = try+1, min(2*delay, maxDelay) {
		fail := work(try, last)
		if fail == nil {
			return nil
		}
		if in.ctx.Err() != nil {
			return in.ctx.Err()
		}
		fail.tried = try
		if !fail.retry || try >= tries {
			return fail
		}
		fmt.Fprintf(in.w.stderr, "left4-worker: %v; the next try of %d in %s\n", fail, tries, delay)
		in.w.note(status.Step(-1, fmt.Sprintf("%s; try %d of %d follows in %s", fail.what(), try+1, tries, delay)))
		pause := time.NewTimer(delay)
		select {
		case <-pause.C:
		case <-in.ctx.Done():
			pause.Stop()
			return in.ctx.Err()
		}
		last = fail
	}
}
