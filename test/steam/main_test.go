package steam

import (
	"os"
	"path/filepath"
	"testing"
)

// The test's own program is SteamCMD and DepotDownloader where it is called so.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); name {
	case "steamcmd", "DepotDownloader":
		os.Exit(Program(name, os.Args[1:]))
	}
	os.Exit(m.Run())
}
