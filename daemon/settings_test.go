package daemon

import (
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What the package installs shows every key with its default.
func TestTheInstalledSettingsAreTheDefaults(t *testing.T) {
	text, err := os.ReadFile("../packaging/left4d.conf")
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?m)^#(\w+=)`).ReplaceAll(text, []byte("$1"))
	s, err := parseSettings(text)
	if err != nil || !reflect.DeepEqual(s, defaultSettings()) {
		t.Errorf("%+v, %v", s, err)
	}
	for key := range settingKeys {
		_, name, _ := strings.Cut(key, "/")
		if !strings.Contains(string(text), "\n"+name+"=") {
			t.Errorf("%s is not in it", key)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		text   string
		change func(*Settings) // nil = it is refused
		err    string
	}{
		{"", func(*Settings) {}, ""},
		{"# a comment\n[Game]\nTries=\n", func(*Settings) {}, ""},
		{"[Game]\nSteamCMD=/opt/s/steamcmd.sh\nTries=3\nRetrySec=1min 30s\nSilenceSec=90\n[Builds]\nDNS=9.9.9.9 2620:fe::fe\n[Workshop]\nAPI=http://[::1]:80/x/\n",
			func(s *Settings) {
				s.SteamCMD, s.Tries, s.Retry, s.Silence = "/opt/s/steamcmd.sh", 3, 90*time.Second, 90*time.Second
				s.DNS = []netip.Addr{netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("2620:fe::fe")}
				s.API = "http://[::1]:80/x"
			}, ""},
		{"[Builds]\nAllowPrivateNetworks=Yes\n", func(s *Settings) { s.AllowPrivateNetworks = true }, ""},
		{"[Game]\nTriez=3\n", nil, "[Game] Triez= is not known"},
		{"[game]\nTries=3\n", nil, "[game] Tries= is not known"},
		{"Tries=3\n", nil, "stands before the first section"},
		{"[Game]\nTries=0\n", nil, "[Game] Tries=0: that is no number from 1 to 100"},
		{"[Game]\nRetrySec=1 fortnight\n", nil, "that is no time from 1ms to 1h0m0s"},
		{"[Game]\nRetrySec=99999999999999999999\n", nil, "that is no time"},
		{"[Game]\nRetrySec=59min 59min\n", nil, "that is no time"},
		{"[Game]\nSteamCMD=steamcmd\n", nil, "that is no absolute path"},
		{"[Game]\nSteamCMD=/home/me/steamcmd.sh\n", nil, "what lies below /home is hidden from services"},
		{"[Game]\nInstaller=apt\n", nil, "use auto, steamcmd or depotdownloader"},
		{"[Workshop]\nAPI=ftp://x\n", nil, "that is no URL of http, https"},
		{"[Builds]\nDNS=dns.example\n", nil, `"dns.example" is no address`},
		{"[Builds]\nDNS=1.1.1.1 1.1.1.2 1.1.1.3 1.1.1.4\n", nil, "at most 3"},
		{"[Builds]\nAllowPrivateNetworks=maybe\n", nil, "use yes or no"},
		{strings.Repeat("#\n", maxSettings), nil, "it has more than"},
	} {
		got, err := parseSettings([]byte(c.text))
		if c.change == nil {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%.60q: %v, want %q", c.text, err, c.err)
			}
			continue
		}
		want := defaultSettings()
		c.change(&want)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%.60q: %+v, %v", c.text, got, err)
		}
	}
}

func FuzzSettings(f *testing.F) {
	f.Add([]byte("[Game]\nTries=3\nRetrySec=1min 30s\n[Builds]\nDNS=9.9.9.9\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseSettings(text)
		if err == nil && (s.Tries < 1 || s.Retry <= 0 || s.Silence <= 0 || s.Parallel < 1 || s.API == "") {
			t.Fatalf("%+v", s)
		}
	})
}
