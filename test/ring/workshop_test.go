package ring

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/test/report"
	"left4.me/left4/test/steam"
)

// eachWorkshop runs a test in a fresh machine of each suite, with a workshop and without a game.
func eachWorkshop(t *testing.T, test func(t *testing.T, p play, s *Steam)) {
	Each(t, func(t *testing.T, m *Machine) {
		m.Run(t, "mkdir", "-p", "/srv/none", "/etc/left4")
		s := m.startSteam(t, "/srv/none")
		// No private networks: what the API itself lies on is reached all the same, and nothing else.
		m.WriteFile(t, "/etc/left4/left4d.conf", "[Workshop]\nAPI="+steam.DefaultAddress+"\n", 0o644)
		test(t, play{m, t}, s)
	})
}

// campaigns are items, a collection of some of which has another one.
func campaigns(w *steam.World) {
	w.Items = map[string]steam.Item{}
	w.Collections = map[string][]steam.Child{"2001": nil, "2002": {{ID: "2001", Collection: true}}}
	for n := range 30 {
		id := fmt.Sprint(1001 + n)
		w.Items[id] = steam.Item{Title: fmt.Sprintf("Campaign %d", n+1), Updated: 1700000000, Size: 100_000}
		in := "2001"
		if n >= 20 {
			in = "2002"
		}
		w.Collections[in] = append(w.Collections[in], steam.Child{ID: id})
	}
	w.Collections["2001"] = append(w.Collections["2001"], steam.Child{ID: "2002", Collection: true})
	alter(w, "1005", func(i *steam.Item) { i.NoURL = true })
	alter(w, "1025", func(i *steam.Item) { i.Result = 9 })
}

func alter(w *steam.World, id string, change func(*steam.Item)) {
	item := w.Items[id]
	change(&item)
	w.Items[id] = item
}

// addons are the files of an overlay, by name, with what tells one file from another.
func (p play) addons(overlay string) map[string]string {
	p.t.Helper()
	dir := fmt.Sprintf("/var/lib/left4/overlays/%s/%s/left4dead2/addons", p.ofOverlay(overlay, "Id"), p.ofOverlay(overlay, "Revision"))
	files := map[string]string{}
	for line := range strings.Lines(p.Run(p.t, "find", dir, "-type", "f", "-printf", "%f %i\\n")) {
		name, inode, _ := strings.Cut(strings.TrimSpace(line), " ")
		files[name] = inode
	}
	return files
}

type workshopItem struct{ ID, Title, File, State, Cause string }

func (p play) items(overlay string) map[string]workshopItem {
	p.t.Helper()
	var list []workshopItem
	if err := json.Unmarshal([]byte(p.ctl("overlay", "items", overlay, "--json")), &list); err != nil {
		p.t.Fatalf("%v", err)
	}
	all := map[string]workshopItem{}
	for _, i := range list {
		all[i.ID] = i
	}
	return all
}

func TestWorkshopFetchesWhatIsNew(t *testing.T) {
	eachWorkshop(t, func(t *testing.T, p play, s *Steam) {
		s.Set(t, campaigns)
		p.ctl("overlay", "create", "maps", "--type", "workshop", "--item", "https://steamcommunity.com/sharedfiles/filedetails/?id=2001")
		build := func(what, goal string, met func(steam.Requests) bool) {
			t.Helper()
			out := p.ctl("overlay", "build", "maps")
			r := s.Requests(t, true)
			report.Add(t, report.Row{
				Table: "builders", Suite: p.Suite, Name: "workshop: " + what, Goal: goal, Met: met(r),
				Figures: []report.Figure{report.Count("API calls", r.Count("collections", "details")), report.Count("downloads", r.Count("file")), report.Count("bytes", int(r.Bytes("file")))},
			})
			if !met(r) {
				t.Errorf("%s: %s\n%s", what, out, r)
			}
		}
		build("a collection of 30 maps with 2 broken ones", "28 downloads", func(r steam.Requests) bool { return r.Count("file") == 28 })
		first := p.addons("maps")
		if len(first) != 28 || first["campaign_1.vpk"] == "" || p.ofOverlay("maps", "Revision") != "1" {
			t.Errorf("revision %s has %v", p.ofOverlay("maps", "Revision"), first)
		}
		items := p.items("maps")
		if len(items) != 30 || items["1005"].State != "missing" || items["1005"].Cause != "there is no file of it: Steam tells no file_url" || items["1025"].State != "missing" {
			t.Errorf("items %v", items)
		}
		p.Run(t, "sh", "-ec", `! find /var/lib/left4/overlays -path '*/addons/*' ! -user left4 | grep .; ! find /var/lib/left4/workshop -maxdepth 1 -type f -links -2 | grep .`)

		build("nothing changed", "≤ 2 API calls, 0 downloads", func(r steam.Requests) bool {
			return r.Count("collections", "details") <= 2 && r.Count("file") == 0
		})
		if got := p.ofOverlay("maps", "Revision"); got != "1" {
			t.Errorf("nothing changed, and there is revision %s", got)
		}
		if out := p.ctl("job", "list", "--kind", "build-overlay", "--no-legend"); !strings.Contains(out, "done") {
			t.Errorf("jobs:\n%s", out)
		}

		s.Set(t, func(w *steam.World) { alter(w, "1007", func(i *steam.Item) { i.Updated++; i.Size = 150_000 }) })
		build("one of 28 changed", "1 download", func(r steam.Requests) bool { return r.Count("file") == 1 && r.Count("collections", "details") <= 2 })
		second := p.addons("maps")
		for name, inode := range first {
			if same := second[name] == inode; same == (name == "campaign_7.vpk") {
				t.Errorf("%s: inode %s, then %s", name, inode, second[name])
			}
		}

		// Another overlay with the same items fetches nothing.
		p.ctl("overlay", "create", "two", "items=1001", "items=1002")
		p.ctl("overlay", "build", "two")
		if r := s.Requests(t, true); r.Count("file") != 0 || p.addons("two")["campaign_1.vpk"] != first["campaign_1.vpk"] {
			t.Errorf("%s%v", r, p.addons("two"))
		}

		// What goes away keeps its old file.
		s.Set(t, func(w *steam.World) {
			alter(w, "1001", func(i *steam.Item) { i.Result = 9 })
			alter(w, "1002", func(i *steam.Item) { i.Visibility = 2 })
			alter(w, "1003", func(i *steam.Item) { i.Updated++; i.App = 440 })
		})
		p.ctl("overlay", "refresh")
		if third := p.addons("maps"); len(third) != 28 || third["campaign_1.vpk"] != first["campaign_1.vpk"] || third["campaign_3.vpk"] != first["campaign_3.vpk"] {
			t.Errorf("after two were hidden: %v", third)
		}
		if i := p.items("maps")["1003"]; i.State != "kept" || i.Cause != "it is for app 440, not for Left 4 Dead 2, 550" {
			t.Errorf("%+v", i)
		}

		// The timer is there for who wants it, and what it starts may do what it has to.
		if r := p.Try("systemctl", "is-enabled", "left4-refresh.timer"); strings.TrimSpace(r.Out) != "disabled" {
			t.Errorf("the timer: %+v", r)
		}
		s.Requests(t, true)
		p.Run(t, "systemctl", "start", "left4-refresh.service")
		if r := s.Requests(t, true); r.Count("collections") != 2 || r.Count("file") != 0 {
			t.Errorf("%s\n%s", r, p.Journal(t, "left4-refresh.service"))
		}
		p.Run(t, "systemctl", "enable", "--now", "left4-refresh.timer")
		p.WaitUnit(t, "left4-refresh.timer", "ActiveState", "active")
	})
}

func TestWorkshopSurvivesABadNight(t *testing.T) {
	eachWorkshop(t, func(t *testing.T, p play, s *Steam) {
		s.Set(t, func(w *steam.World) {
			campaigns(w)
			w.Faults = []steam.Fault{
				{On: "collections", Kind: "status", Code: 429, Text: "1", Times: 1},
				{On: "collections", Kind: "html", Times: 1},
				{On: "details", Kind: "status", Code: 503, Times: 1},
				{On: "details", Kind: "cut", Bytes: 100, Times: 1},
				{On: "file", Only: "1001", Kind: "cut", Bytes: 40_000, Times: 2},
				{On: "file", Only: "1002", Kind: "reset", Bytes: 10_000, Times: 1},
				{On: "file", Only: "1003", Kind: "no-ranges", After: 1, Times: 1},
				{On: "file", Only: "1003", Kind: "cut", Bytes: 1000, Times: 1},
				{On: "file", Only: "1004", Kind: "status", Code: 429, Text: "1", Times: 1},
				{On: "file", Only: "1006", Kind: "status", Code: 404},
			}
		})
		p.ctl("overlay", "create", "maps", "--item", "2001")
		p.ctl("overlay", "build", "maps")
		r := s.Requests(t, true)
		resumed := 0
		for _, one := range r {
			if one.On == "file" && one.Range != "" {
				resumed++
			}
		}
		items := p.items("maps")
		met := len(p.addons("maps")) == 27 && resumed >= 3 && items["1006"].State == "missing"
		report.Add(t, report.Row{Table: "builders", Suite: p.Suite, Name: "workshop: 429, 503, a page for people, cut and reset answers", Goal: "27 files, cut ones resumed", Met: met,
			Figures: []report.Figure{report.Count("files", len(p.addons("maps"))), report.Count("resumed", resumed), report.Count("faults", r.Count("file")-27)}})
		if !met {
			t.Errorf("%v\n%v\n%s", p.addons("maps"), items["1006"], r)
		}
		sums := p.Run(t, "sh", "-ec", `cd /var/lib/left4/workshop; for f in 100[1-4]-*.vpk; do stat -c %s "$f"; head -c 4 "$f" | od -An -tx1; done`)
		if strings.Count(sums, "100000\n 34 12 aa 55") != 4 {
			t.Errorf("cut and resumed:\n%s", sums)
		}

		// Steam is away: the job says so, and the overlay is what it was.
		before := p.addons("maps")
		p.Run(t, "systemctl", "stop", "left4-steam.service")
		if r := p.Try("left4ctl", "overlay", "build", "maps"); r.Code == 0 || !strings.Contains(r.Err, "cannot build overlay maps: cannot ask Steam: ") || !strings.Contains(r.Err, "connection refused") {
			t.Errorf("%+v", r)
		}
		if got := p.addons("maps"); fmt.Sprint(got) != fmt.Sprint(before) {
			t.Errorf("%v is now %v", before, got)
		}
	})
}

func TestWorkshopRefusesByName(t *testing.T) {
	eachWorkshop(t, func(t *testing.T, p play, s *Steam) {
		hostile := map[string]struct {
			item  steam.Item
			fault *steam.Fault
			want  string
		}{
			"1":  {item: steam.Item{Filename: "../../../../etc/cron.d/x.vpk"}, want: `its file name "../../../../etc/cron.d/x.vpk" is not allowed: its path leads elsewhere`},
			"2":  {item: steam.Item{Filename: "/etc/x.vpk"}, want: `its file name "/etc/x.vpk" is not allowed: it is absolute`},
			"3":  {item: steam.Item{App: 440}, want: "it is for app 440, not for Left 4 Dead 2, 550"},
			"4":  {item: steam.Item{Size: 100_000}, fault: &steam.Fault{On: "file", Only: "4", Kind: "length", Bytes: 3 << 30}, want: "127.0.0.1:27900 wants to send 3221225472 bytes, where Steam says that there are "},
			"5":  {item: steam.Item{Size: 100_000}, fault: &steam.Fault{On: "file", Only: "5", Kind: "endless"}, want: "its file is no VPK: it begins with "},
			"6":  {item: steam.Item{URL: "http://192.168.0.1/x"}, want: `its file lies at "http://192.168.0.1/x": 192.168.0.1 is no address of the internet, which is not allowed`},
			"7":  {item: steam.Item{URL: "http://inside.example:27900/x"}, want: "is no address of the internet, which is not allowed"},
			"8":  {item: steam.Item{URL: "file:///etc/shadow"}, want: `its file lies at "file:///etc/shadow": scheme "file" is not allowed: use http or https`},
			"9":  {fault: &steam.Fault{On: "file", Only: "9", Kind: "redirect", Text: "http://[::1]:22/"}, want: "::1 is no address of the internet, which is not allowed"},
			"10": {item: steam.Item{FileSize: json.RawMessage(`"9000000000"`)}, want: "its file has 9000000000 bytes, more than 4294967296"},
			"11": {item: steam.Item{Content: []byte("\x7fELF this is no add-on")}, want: `its file is no VPK: it begins with "\x7fELF"`},
			"12": {item: steam.Item{}, want: `"12-1700000000.vpk": a link is in the way`},
			"13": {item: steam.Item{}, want: `"13-1700000000.vpk.part": a link is in the way`},
			"14": {item: steam.Item{Filename: "addons/x.so"}, want: `its file name "addons/x.so" is not allowed: it does not end in .vpk`},
		}
		args := []string{"overlay", "create", "maps", "items=1000"}
		s.Set(t, func(w *steam.World) {
			w.Items = map[string]steam.Item{"1000": {Title: "good", Updated: 1700000000}}
			for id, c := range hostile {
				c.item.Title, c.item.Updated = "item "+id, 1700000000
				w.Items[id] = c.item
				if c.fault != nil {
					w.Faults = append(w.Faults, *c.fault)
				}
				args = append(args, "items="+id)
			}
		})
		p.Run(t, "sh", "-ec", `echo 127.0.0.1 inside.example >> /etc/hosts; echo secret > /root/victim; chown left4: /root/victim; cd /var/lib/left4/workshop/incoming
			ln -s /root/victim 12-1700000000.vpk; ln -s /root/victim 13-1700000000.vpk.part; chown -h left4: *`)
		outside := func() string { return p.Run(t, "find", "/etc", "/root", "/usr", "-newer", "/root/begun", "-type", "f") }
		p.Run(t, "touch", "/root/begun")
		p.ctl(args...)
		p.ctl("overlay", "build", "maps")
		items := p.items("maps")
		refused := 0
		for id, c := range hostile {
			if i := items[id]; i.State == "missing" && strings.Contains(i.Cause, c.want) && i.File == "" {
				refused++
			} else {
				t.Errorf("%s: %+v, want %s", id, i, c.want)
			}
		}
		report.Add(t, report.Row{Table: "builders", Suite: p.Suite, Name: "workshop: hostile items", Goal: "all refused by name, the good one is there", Met: refused == len(hostile) && items["1000"].State == "present",
			Figures: []report.Figure{report.Count("items", len(hostile)), report.Count("refused", refused)}})
		if got := p.addons("maps"); len(got) != 1 || got["good.vpk"] == "" {
			t.Errorf("the overlay has %v", got)
		}
		// What lies in answers about lengths neither is taken from the server nor takes room.
		stored := p.Run(t, "du", "--summarize", "--apparent-size", "--bytes", "/var/lib/left4/workshop")
		if n, err := strconv.Atoi(strings.Fields(stored)[0]); err != nil || n > 1<<20 {
			t.Errorf("%s, %v", stored, err)
		}
		if r := s.Requests(t, true); r.Bytes("file") > 64<<20 {
			t.Errorf("the server sent %d bytes", r.Bytes("file"))
		}
		if got := outside(); got != "" || p.ReadFile(t, "/root/victim") != "secret\n" {
			t.Errorf("outside there is now %s", got)
		}
	})
}

// A build outlives left4d; a killed worker fails the job, and what it had is not fetched again; a cancel does not wait.
func TestWorkshopIsInterrupted(t *testing.T) {
	eachWorkshop(t, func(t *testing.T, p play, s *Steam) {
		slow := func(bytes int64) {
			s.Set(t, func(w *steam.World) {
				w.Items = map[string]steam.Item{"1001": {Title: "large", Updated: 1700000000, Size: 20_000_000}}
				w.Faults = []steam.Fault{{On: "file", Kind: "slow", Bytes: bytes, Times: 1}}
			})
		}
		begun := regexp.MustCompile(`0 of 1 files, [1-9]`)
		slow(20_000)
		p.ctl("overlay", "create", "maps", "items=1001")
		begin := func() (dbus.ObjectPath, string) {
			t.Helper()
			job := dbus.ObjectPath(strings.TrimSpace(p.ctl("overlay", "build", "maps", "--no-wait")))
			unit := "left4-build-" + string(job[strings.LastIndexByte(string(job), '/')+1:]) + ".service"
			changes := p.Signals(t, dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"))
			defer changes.Close()
			for !begun.MatchString(p.Try("busctl", "get-property", service, string(job), "me.left4.Job", "Status").Out) {
				changes.Wait(t, "the download", func(s *dbus.Signal) bool { return s.Path == job })
			}
			return job, unit
		}

		// The worker dies.
		job, unit := begin()
		p.Run(t, "systemctl", "kill", "--signal=SIGKILL", unit)
		p.waitJob(job, "failed")
		if got := value(p.Run(t, "busctl", "get-property", service, string(job), "me.left4.Job", "Cause")); got != "cannot build overlay maps: the worker failed: it was killed by SIGKILL" {
			t.Errorf("cause %q", got)
		}
		s.Requests(t, true)

		// The next one goes on with what is there; left4d dies.
		slow(100_000)
		job, _ = begin()
		p.Run(t, "systemctl", "kill", "--signal=SIGKILL", "left4d.service")
		p.waitJob(job, "done")
		r := s.Requests(t, true)
		if r.Count("file") != 1 || len(r) == 0 || !strings.HasPrefix(r[len(r)-1].Range, "bytes=") || p.addons("maps")["large.vpk"] == "" {
			t.Errorf("%s%v", r, p.addons("maps"))
		}

		// A cancel ends the pause that Steam wishes for.
		s.Set(t, func(w *steam.World) {
			w.Faults = []steam.Fault{{On: "collections", Kind: "status", Code: 429, Text: "250"}}
		})
		build := p.Start(t, "left4ctl", "overlay", "build", "maps")
		build.Expect(t, "trying again in 4m10s: 127.0.0.1:27900 answers 429 Too Many Requests")
		number := strings.Fields(p.ctl("job", "list", "--state", "running", "--no-legend"))[0]
		p.ctl("job", "cancel", number)
		if out, code := build.Wait(t); code == 0 || !strings.Contains(out, "canceled by root") {
			t.Errorf("exit %d, %s", code, out)
		}
		p.WaitUnit(t, "left4-build-"+number+".service", "ActiveState", "inactive")
		if got := p.ofOverlay("maps", "Revision"); got == "0" {
			t.Error("the overlay has lost its revision")
		}
	})
}
