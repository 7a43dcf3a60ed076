package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/unit"
	"golang.org/x/sys/unix"
)

// Settings are what left4d.conf(5) says; the zero value of none of them means anything, see defaultSettings.
type Settings struct {
	SteamCMD, DepotDownloader string // paths, "" = looked for
	Installer                 string
	Tries                     int
	Retry, Silence            time.Duration

	API, Proxy string // URLs, without a slash at their ends
	Parallel   int

	DNS                  []netip.Addr
	AllowPrivateNetworks bool
}

// Values of Settings.Installer.
const (
	installerAuto            = "auto"
	installerSteamCMD        = "steamcmd"
	installerDepotDownloader = "depotdownloader"
)

func defaultSettings() Settings {
	return Settings{
		Installer: installerAuto, Tries: 10, Retry: 15 * time.Second, Silence: 10 * time.Minute,
		API: "https://api.steampowered.com", Parallel: 4,
		DNS: []netip.Addr{netip.AddrFrom4([4]byte{1, 1, 1, 1}), netip.AddrFrom4([4]byte{9, 9, 9, 9})},
	}
}

const maxSettings = 64 << 10 // bytes of left4d.conf

// settingKeys are what stands in left4d.conf, by section/key.
var settingKeys = map[string]func(*Settings, string) error{
	"Game/SteamCMD":        func(s *Settings, text string) error { return setPath(&s.SteamCMD, text) },
	"Game/DepotDownloader": func(s *Settings, text string) error { return setPath(&s.DepotDownloader, text) },
	"Game/Installer": func(s *Settings, text string) error {
		if !slices.Contains([]string{installerAuto, installerSteamCMD, installerDepotDownloader}, text) {
			return fmt.Errorf("use %s, %s or %s", installerAuto, installerSteamCMD, installerDepotDownloader)
		}
		s.Installer = text
		return nil
	},
	"Game/Tries":      func(s *Settings, text string) error { return setNumber(&s.Tries, text, 1, 100) },
	"Game/RetrySec":   func(s *Settings, text string) error { return setSpan(&s.Retry, text, time.Millisecond, time.Hour) },
	"Game/SilenceSec": func(s *Settings, text string) error { return setSpan(&s.Silence, text, time.Second, 24*time.Hour) },

	"Workshop/API":      func(s *Settings, text string) error { return setURL(&s.API, text, "http", "https") },
	"Workshop/Proxy":    func(s *Settings, text string) error { return setURL(&s.Proxy, text, "http", "https", "socks5") },
	"Workshop/Parallel": func(s *Settings, text string) error { return setNumber(&s.Parallel, text, 1, 16) },

	"Builds/DNS": func(s *Settings, text string) error {
		s.DNS = nil
		for _, word := range strings.Fields(text) {
			addr, err := netip.ParseAddr(word)
			if err != nil || addr.Zone() != "" {
				return fmt.Errorf("%q is no address", shorten(word))
			}
			s.DNS = append(s.DNS, addr)
		}
		if len(s.DNS) > 3 {
			return errors.New("the C library knows at most 3 of them") // resolv.conf(5), MAXNS
		}
		return nil
	},
	"Builds/AllowPrivateNetworks": func(s *Settings, text string) error { return setBool(&s.AllowPrivateNetworks, text) },
}

// settings reads left4d.conf. One that is not there is all defaults.
func (d *Daemon) settings() (Settings, error) {
	if d.SettingsPath == "" {
		return defaultSettings(), nil
	}
	f, err := os.OpenFile(d.SettingsPath, os.O_RDONLY|unix.O_NONBLOCK, 0) // nobody waits for a FIFO's other end
	if errors.Is(err, fs.ErrNotExist) {
		return defaultSettings(), nil
	}
	if err == nil {
		defer f.Close()
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(f, maxSettings+1)); err == nil {
			var s Settings
			if s, err = parseSettings(text); err == nil {
				return s, nil
			}
		}
	}
	return Settings{}, fmt.Errorf("cannot read %s: %w", d.SettingsPath, err)
}

func parseSettings(text []byte) (Settings, error) {
	s := defaultSettings()
	if len(text) > maxSettings {
		return s, fmt.Errorf("it has more than %d bytes", maxSettings)
	}
	// The library passes over what stands before the first section.
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			break
		}
		if line != "" && line[0] != '#' && line[0] != ';' {
			return s, fmt.Errorf("%q stands before the first section", shorten(line))
		}
	}
	options, err := unit.DeserializeOptions(bytes.NewReader(text))
	if err != nil {
		return s, err
	}
	for _, o := range options {
		name := "[" + shorten(o.Section) + "] " + shorten(o.Name)
		set := settingKeys[o.Section+"/"+o.Name]
		if set == nil {
			return s, fmt.Errorf("%s= is not known", name)
		}
		value := strings.TrimSpace(o.Value)
		if value == "" {
			continue
		}
		if err := set(&s, value); err != nil {
			return s, fmt.Errorf("%s=%s: %w", name, shorten(value), err)
		}
	}
	return s, nil
}

func setPath(to *string, text string) error {
	if !filepath.IsAbs(text) || filepath.Clean(text) != text {
		return errors.New("that is no absolute path")
	}
	for _, hidden := range []string{"/home", "/root", "/run/user", "/tmp", "/var/tmp"} {
		if strings.HasPrefix(text, hidden+"/") {
			return fmt.Errorf("what lies below %s is hidden from services", hidden)
		}
	}
	*to = text
	return nil
}

func setNumber(to *int, text string, low, high int) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		return fmt.Errorf("that is no number from %d to %d", low, high)
	}
	*to = n
	return nil
}

func setBool(to *bool, text string) error {
	// As systemd has them, see systemd.syntax(7).
	switch strings.ToLower(text) {
	case "1", "yes", "true", "on":
		*to = true
	case "0", "no", "false", "off":
		*to = false
	default:
		return errors.New("use yes or no")
	}
	return nil
}

func setURL(to *string, text string, schemes ...string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme) || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("that is no URL of %s", strings.Join(schemes, ", "))
	}
	*to = strings.TrimRight(u.String(), "/")
	return nil
}

// spanUnits are those of systemd.time(7) that make sense here.
var spanUnits = map[string]time.Duration{
	"": time.Second, "ms": time.Millisecond, "s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour, "d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
}

// setSpan reads a sum as "1min 30s".
func setSpan(to *time.Duration, text string, low, high time.Duration) error {
	var sum time.Duration
	for rest := text; rest != ""; rest = strings.TrimSpace(rest) {
		end := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := strconv.ParseUint(rest[:end], 10, 31)
		rest = strings.TrimSpace(rest[end:])
		word := rest[:len(rest)-len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyz"))]
		unit, known := spanUnits[word]
		if err != nil || !known || time.Duration(n) > high/unit {
			sum = -1
			break
		}
		sum += time.Duration(n) * unit
		rest = rest[len(word):]
		if sum > high {
			break
		}
	}
	if sum < low || sum > high {
		return fmt.Errorf("that is no time from %s to %s", low, high)
	}
	*to = sum
	return nil
}
