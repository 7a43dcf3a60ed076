package main

import (
	"fmt"
	"regexp"
)

// class is a kind of failure, as far as something follows from it.
type class string

const (
	classPlatform     class = "invalid platform"
	classSubscription class = "no subscription"
	classConfig       class = "missing configuration"
	classDiskFull     class = "disk full"
	classDiskWrite    class = "disk write"
	classNetwork      class = "network"
	classLogin        class = "login"
	classIncomplete   class = "incomplete"
	classProgram      class = "program" // it cannot be run
	classCrash        class = "crash"
	classHang         class = "hang"
	classUnknown      class = "unknown"
)

// elsewhere tells whether another program may get the game.
func (c class) elsewhere() bool {
	return c == classPlatform || c == classSubscription || c == classConfig || c == classProgram
}

// failure is why a program did not do its work.
type failure struct {
	program string
	class   class
	cause   string
	hint    string // the next step, "" = none
	retry   bool   // it may pass
	tried   int    // times
}

func (f *failure) what() string { return f.program + " failed: " + f.cause }

func (f *failure) Error() string {
	text := f.what()
	if f.tried > 1 {
		text += fmt.Sprintf(" (tried %d times)", f.tried)
	}
	if f.hint != "" {
		text += "; " + f.hint
	}
	return text
}

const (
	steamProgram = "SteamCMD"
	depotProgram = "DepotDownloader"

	// maxFailure is how much of a line is looked at, in bytes. No failure is longer, and a flood is to be waded through.
	maxFailure = 500

	libraries = "install what 32-bit programs need: dpkg --add-architecture i386, apt update, apt install lib32gcc-s1"
	waitHint  = "Steam lets in nobody from this address who asks too often: wait half an hour"
	writeHint = "look at the disk and the file system of /var/lib/left4"
	spaceHint = "free some space below /var/lib/left4"
)

// failures says what is meant by a line of SteamCMD or DepotDownloader. The first row that fits a line counts, and of the lines of a
// program that failed the first that fits: what follows comes of it. $1 is what the pattern has in parentheses.
//
// SteamCMD's states are not documented. Their meaning is from docs.linuxgsm.com/steamcmd/errors and the issues of
// GameServerManagers/LinuxGSM and ValveSoftware/steam-for-linux; DepotDownloader's texts are from its source.
var failures = []struct {
	line  *regexp.Regexp
	class class
	cause string
	hint  string
	retry bool
}{
	{steamError(`Invalid platform`), classPlatform, "Invalid platform", "", true},
	{steamError(`No subscription`), classSubscription, "No subscription", "", true},
	{steamError(`Missing configuration`), classConfig, "Missing configuration", "", true},
	{regexp.MustCompile(`^(?:Error: )?App ` + app + ` .*is not available from this account`), classSubscription, "the game is not available without a login", "", false},
	{regexp.MustCompile(`^(?:Depot \d+ is not available from this account|Encountered 401 for depot manifest)`), classSubscription, "the game is not available without a login", "", false},

	{steamState(`0x2[01]2`), classDiskFull, "disk full", spaceHint, false},
	{regexp.MustCompile(`(?i)no space left on device|not enough (?:free )?(?:disk )?space|disk quota exceeded`), classDiskFull, "disk full", spaceHint, false},
	{steamState(`0x606`), classDiskWrite, "the disk cannot be written to", writeHint, false},
	{steamError(`Disk write failure|Missing file permissions`), classDiskWrite, "the disk cannot be written to", writeHint, false},
	{regexp.MustCompile(`(?i)read-only file system|: input/output error`), classDiskWrite, "the disk cannot be written to", writeHint, false},
	{regexp.MustCompile(`^(?:Error: )?Failed to (?:allocate|resize) file`), classDiskWrite, "the disk cannot be written to", writeHint, false},

	{regexp.MustCompile(`(?i)rate ?limit ?exceeded`), classLogin, "too many logins", waitHint, true},
	{steamState(`(0x[46]02)`), classNetwork, "the download broke off (state $1)", "", true},
	{regexp.MustCompile(`(?:FAILED|ERROR).*\((No Connection|Time ?out|Timed out|Service Unavailable|Try another CM|Connection Failed|Busy)\)`), classNetwork, "no connection to Steam ($1)", "", true},
	{regexp.MustCompile(`^Login Failure: (No Connection|Time ?out|Service Unavailable|Try another CM)`), classNetwork, "no connection to Steam ($1)", "", true},
	{steamError(`No connection|Time ?out|Content servers unreachable|Service Unavailable`), classNetwork, "no connection to Steam's content servers", "", true},
	{regexp.MustCompile(`needs to be online to update`), classNetwork, "no connection to Steam (it cannot update itself)", "", true},
	{regexp.MustCompile(`^(?i:error)! (?:Timed out waiting for AppInfo update|Failed to request AppInfo update)`), classNetwork, "no connection to Steam (no word about the app)", "", true},
	{regexp.MustCompile(`^(?:Could not connect to Steam after|Connection to Steam failed|Lost connection to Steam)`), classNetwork, "no connection to Steam", "", true},
	{regexp.MustCompile(`^Unable to login to Steam3: (?:ServiceUnavailable|TryAnotherCM|Timeout|NoConnection|Busy)`), classNetwork, "no connection to Steam", "", true},
	{regexp.MustCompile(`^(?:Connection timeout downloading|Failed to find any server with chunk|Encountered (?:unexpected )?error downloading|Unable to download manifest)`), classNetwork, "no connection to Steam's content servers", "", true},

	{steamState(`0x626`), classIncomplete, "files are missing", "", true},
	{steamState(`0x6[aA]6`), classIncomplete, "files are corrupt", "", true},
	{steamError(`Missing update files|Missing game files`), classIncomplete, "files are missing", "", true},
	{steamError(`Corrupt update files|Corrupt (?:game )?content|Corrupt download`), classIncomplete, "files are corrupt", "", true},
	{steamState(`(0x[0-9a-fA-F]+)`), classUnknown, "state $1 after the update", "", true},
	{steamError(`([^()]{1,100})`), classUnknown, "$1", "", true},

	{regexp.MustCompile(`FAILED.*\(([^()]{1,100})\)`), classLogin, "Steam refuses the login ($1)", "", true},
	{regexp.MustCompile(`^Login Failure: (.{1,100})`), classLogin, "Steam refuses the login ($1)", "", true},
	{regexp.MustCompile(`^Unable to login to Steam3: (\w{1,100})`), classLogin, "Steam refuses the login ($1)", "", true},

	// bash says "No such file" or "required file not found" of a program whose loader is missing, and the latter since 5.2.
	{regexp.MustCompile(`/steamcmd: (?:No such file or directory|cannot execute: required file not found)`), classProgram, "it cannot be run without the loader of 32-bit programs", libraries, false},
	{regexp.MustCompile(`/steamcmd: (?i:cannot execute binary file|cannot execute: Exec format error)`), classProgram, "it cannot be run on this processor or kernel", "", false},
	{regexp.MustCompile(`/steamcmd: (?i:cannot execute: |)Permission denied`), classProgram, "it may not be run where it lies", "is /var/lib/left4 mounted with noexec?", false},
	{regexp.MustCompile(`error while loading shared libraries: ([\w.+-]{1,100})`), classProgram, "the library $1 is missing", libraries, false},
	{regexp.MustCompile(`Failed to load steamconsole\.so`), classProgram, "it cannot load steamconsole.so", libraries, false},
	{regexp.MustCompile(`You must install .*\.NET|libhostfxr\.so|valid ICU package`), classProgram, "its .NET runtime is missing", "take the release for linux that holds all it needs", false},

	{regexp.MustCompile(`^(?i:error)! (.{1,200})`), classUnknown, "$1", "", true},
	{regexp.MustCompile(`Fatal Error: (.{1,200})`), classUnknown, "$1", "", true},
	{regexp.MustCompile(`^Download failed (?:due )?to (?:due to )?an unhandled exception: (.{1,200})`), classUnknown, "$1", "", true},
	{regexp.MustCompile(`^(?:Error: )?Couldn't find any depots`), classUnknown, "it finds no files of the game", "", true},
}

// steamError is how SteamCMD ends an app_update that it did not begin, with what stands in parentheses.
func steamError(reason string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)^ERROR! Failed to (?:install|update) app '` + app + `' \((?:` + reason + `)\)`)
}

// steamState is how SteamCMD ends an app_update that it began.
func steamState(state string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)^Error! (?:App '` + app + `' )?state is (?:is )?` + state + ` after update job`)
}

// failureOf is what a line of a program means, nil if it tells of no failure.
func failureOf(program, line string) *failure {
	line = line[:min(len(line), maxFailure)]
	for _, row := range failures {
		m := row.line.FindStringSubmatchIndex(line)
		if m == nil {
			continue
		}
		cause := row.line.ExpandString(nil, row.cause, line, m)
		return &failure{program: program, class: row.class, cause: string(cause), hint: row.hint, retry: row.retry}
	}
	return nil
}
