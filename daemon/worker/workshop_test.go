package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
)

// steam is Steam's Web API, and what its files lie on, for one test.
type steam struct {
	t   testing.TB
	url string

	mu          sync.Mutex
	items       map[string]map[string]any
	collections map[string][]map[string]any
	files       map[string][]byte
	asked       []string                                          // methods, and files with what was asked of them
	fault       func(w http.ResponseWriter, r *http.Request) bool // answers itself
}

func newSteam(t testing.TB) *steam {
	s := &steam{t: t, items: map[string]map[string]any{}, collections: map[string][]map[string]any{}, files: map[string][]byte{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// vpk is what the file of an item holds.
func vpk(text string) []byte { return []byte(vpkSignature + text) }

// item makes an item; keys that are nil are left out.
func (s *steam) item(id, text string, keys map[string]any) {
	s.files[id] = vpk(text)
	item := map[string]any{
		"publishedfileid": id, "result": 1, "consumer_app_id": 550, "filename": "myl4d2addons/map" + id + ".vpk", "file_size": strconv.Itoa(len(s.files[id])),
		"file_url": s.url + "/files/" + id, "title": "Map " + id, "time_updated": 1700000000, "visibility": 0, "banned": 0,
	}
	for key, value := range keys {
		if item[key] = value; value == nil {
			delete(item, key)
		}
	}
	s.items[id] = item
}

// collection makes one of items, and of collections where "+" stands before.
func (s *steam) collection(id string, children ...string) {
	s.collections[id] = []map[string]any{}
	for i, child := range children {
		name, nested := strings.CutPrefix(child, "+")
		kind := 0
		if nested {
			kind = 2
		}
		s.collections[id] = append(s.collections[id], map[string]any{"publishedfileid": name, "sortorder": i, "filetype": kind})
	}
}

func (s *steam) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, isFile := strings.CutPrefix(r.URL.Path, "/files/")
	what := filepath.Base(filepath.Dir(r.URL.Path))
	if isFile {
		what = strings.TrimSpace(id + " " + r.Header.Get("Range"))
	}
	s.mu.Lock()
	s.asked = append(s.asked, what)
	fault := s.fault
	s.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	if isFile {
		if s.files[id] == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("ETag", `"`+id+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.files[id]))
		return
	}
	ids := func(count string) (all []string) {
		n, err := strconv.Atoi(r.PostFormValue(count))
		if err != nil || n < 1 || n > 100 || len(r.PostForm) != n+1 {
			s.t.Errorf("%s of %q", count, r.PostForm)
		}
		for i := range n {
			all = append(all, r.PostFormValue(fmt.Sprintf("publishedfileids[%d]", i)))
		}
		return all
	}
	var key string
	rows := []any{}
	switch r.Method + " " + r.URL.Path {
	case "POST /ISteamRemoteStorage/GetCollectionDetails/v1/":
		key = "collectiondetails"
		for _, id := range ids("collectioncount") {
			row := map[string]any{"publishedfileid": id, "result": 9}
			if children := s.collections[id]; children != nil {
				row["result"], row["children"] = 1, children
			}
			rows = append(rows, row)
		}
	case "POST /ISteamRemoteStorage/GetPublishedFileDetails/v1/":
		key = "publishedfiledetails"
		for _, id := range ids("itemcount") {
			if item := s.items[id]; item != nil {
				rows = append(rows, item)
			} else {
				rows = append(rows, map[string]any{"publishedfileid": id, "result": 9})
			}
		}
	default:
		s.t.Errorf("%s %s", r.Method, r.URL)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"response": map[string]any{"result": 1, "resultcount": len(rows), key: rows}})
}

// only lets the fault have the first n requests whose path has the part.
func (s *steam) only(n int, part string, fault http.HandlerFunc) {
	s.fault = func(w http.ResponseWriter, r *http.Request) bool {
		s.mu.Lock()
		mine := strings.Contains(r.URL.Path, part) && n > 0
		if mine {
			n--
		}
		s.mu.Unlock()
		if mine {
			fault(w, r)
		}
		return mine
	}
}

// fetching is a worker of a test, in a directory of its own.
type fetching struct {
	*workshop
	in    string
	ctx   context.Context
	notes []string
}

func (s *steam) fetch(items ...string) *fetching {
	f := &fetching{in: s.t.TempDir(), ctx: context.Background()}
	f.workshop = &workshop{order: order.Workshop{Items: items, API: s.url, Parallel: 2}, log: io.Discard, pause: time.Microsecond, idle: time.Minute, largest: 1 << 20}
	f.note = func(text string) { f.notes = append(f.notes, text) }
	return f
}

// result runs it, and returns what it left.
func (f *fetching) run(t testing.TB) (order.WorkshopResult, error) {
	t.Helper()
	dir, err := unix.Open(f.in, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	f.dir, f.result, f.got, f.all = dir, order.WorkshopResult{}, 0, 0
	var result order.WorkshopResult
	if _, err := f.workshop.run(f.ctx); err != nil {
		if _, there := os.Lstat(f.in + "/" + order.ResultName); there == nil {
			t.Errorf("it failed, %v, and left a result", err)
		}
		return result, err
	}
	left, err := os.Open(f.in + "/" + order.ResultName)
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	if err := order.Read(left, &result); err != nil {
		t.Fatal(err)
	}
	return result, nil
}

// must is run that does not fail.
func (f *fetching) must(t testing.TB) order.WorkshopResult {
	t.Helper()
	result, err := f.run(t)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func missing(r order.WorkshopResult) map[string]string {
	all := map[string]string{}
	for _, item := range r.Items {
		if item.Missing != "" {
			all[item.ID] = item.Missing
		}
	}
	return all
}

func (f *fetching) names(t testing.TB) []string {
	t.Helper()
	var all []string
	entries, err := os.ReadDir(f.in)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != order.ResultName {
			all = append(all, e.Name())
		}
	}
	return all
}

func TestItemsAndCollections(t *testing.T) {
	s := newSteam(t)
	for i := range 6 {
		id := strconv.Itoa(i + 1)
		s.item(id, "text of "+id, nil)
	}
	s.collection("100", "1", "+200", "2")
	s.collection("200", "3", "+100", "+200", "2", "+300")
	s.collection("300")
	f := s.fetch("4", "100", "4", "1", "200", "999")
	r := f.must(t)
	var ids []string
	for _, item := range r.Items {
		ids = append(ids, item.ID)
	}
	if got := strings.Join(ids, " "); got != "4 1 3 2 300 999" {
		t.Errorf("items %s", got)
	}
	if !slices.Equal(r.Collections, []string{"100", "200"}) {
		t.Errorf("collections %v", r.Collections)
	}
	want := map[string]string{"300": "there is no such item: it was deleted, or is hidden", "999": "there is no such item: it was deleted, or is hidden"}
	if got := missing(r); !reflect.DeepEqual(got, want) {
		t.Errorf("missing %v", got)
	}
	if want := (order.Item{File: order.File{ID: "4", Updated: 1700000000, Size: 13}, Title: "Map 4", Name: "map4.vpk"}); r.Items[0] != want {
		t.Errorf("item %+v", r.Items[0])
	}
	if r.Requests != 3 || r.Fetched != 4 {
		t.Errorf("%d requests, %d fetched", r.Requests, r.Fetched)
	}
	if got := f.names(t); !slices.Equal(got, []string{"1-1700000000.vpk", "2-1700000000.vpk", "3-1700000000.vpk", "4-1700000000.vpk"}) {
		t.Errorf("files %v", got)
	}
	if got, err := os.ReadFile(f.in + "/3-1700000000.vpk"); !bytes.Equal(got, vpk("text of 3")) {
		t.Errorf("%q, %v", got, err)
	}
}

// Whoever refreshes each night has the API asked twice, also where collections lie in others.
func TestNothingIsFetchedTwice(t *testing.T) {
	s := newSteam(t)
	for _, id := range []string{"1", "2", "3"} {
		s.item(id, id, nil)
	}
	s.collection("100", "1", "+200")
	s.collection("200", "2", "3")
	f := s.fetch("100")
	first := f.must(t)
	again := s.fetch("100")
	again.order.Collections = first.Collections
	for _, item := range first.Items {
		again.order.Cached = append(again.order.Cached, item.File)
	}
	second := again.must(t)
	if second.Requests != 2 || second.Fetched != 0 || !reflect.DeepEqual(second.Items, first.Items) || len(again.names(t)) != 0 {
		t.Errorf("%+v, %v", second, again.names(t))
	}
	s.item("2", "another", map[string]any{"time_updated": 1700000001})
	third := again.must(t)
	if got := again.names(t); third.Requests != 2 || third.Fetched != 1 || !slices.Equal(got, []string{"2-1700000001.vpk"}) {
		t.Errorf("%+v, %v", third, got)
	}
}

// One item that is not to be had keeps no other from its players.
func TestWhatIsNotToBeHad(t *testing.T) {
	for want, keys := range map[string]map[string]any{
		"there is no such item: it was deleted, or is hidden":                                                               {"result": 9},
		"it is hidden: access denied":                                                                                       {"result": 15},
		"the answer of Steam is result 2":                                                                                   {"result": 2},
		"it is banned":                                                                                                      {"banned": true},
		"it is hidden: not public":                                                                                          {"visibility": 2},
		"it is for app 440, not for Left 4 Dead 2, 550":                                                                     {"consumer_app_id": 440},
		"it is for app 0, not for Left 4 Dead 2, 550":                                                                       {"consumer_app_id": nil},
		"there is no file of it: Steam tells no file_url":                                                                   {"file_url": ""},
		"its file has no size: Steam tells no file_size":                                                                    {"file_size": nil},
		"its file has 3221225472 bytes, more than 1048576":                                                                  {"file_size": "3221225472"},
		"it was updated at -1, which is no time":                                                                            {"time_updated": -1},
		`its file name "../../map.vpk" is not allowed: its path leads elsewhere`:                                            {"filename": "../../map.vpk"},
		`its file name "/etc/map.vpk" is not allowed: it is absolute`:                                                       {"filename": "/etc/map.vpk"},
		`its file name "a\\..\\map.vpk" is not allowed: it has a backslash`:                                                 {"filename": `a\..\map.vpk`},
		`its file name "a\nb.vpk" is not allowed: it has control characters`:                                                {"filename": "a\nb.vpk"},
		`its file name "addons/map.so" is not allowed: it does not end in .vpk`:                                             {"filename": "addons/map.so"},
		`its file name ".vpk" is not allowed: it begins with a dot`:                                                         {"filename": ".vpk"},
		`its file name "` + strings.Repeat("n", 250) + `.vpk" is not allowed: it has more than 200 bytes`:                   {"filename": strings.Repeat("n", 250) + ".vpk"},
		`its file lies at "ftp://a/b": scheme "ftp" is not allowed: use http or https`:                                      {"file_url": "ftp://a/b"},
		`its file lies at "file:///etc/passwd": scheme "file" is not allowed: use http or https`:                            {"file_url": "file:///etc/passwd"},
		`its file lies at "http://a:b@c/": a user in it is not allowed`:                                                     {"file_url": "http://a:b@c/"},
		`its file lies at "http://192.168.0.1/": 192.168.0.1 is no address of the internet, which is not allowed`:           {"file_url": "http://192.168.0.1/"},
		`its file lies at "http://[::ffff:10.0.0.1]/": ::ffff:10.0.0.1 is no address of the internet, which is not allowed`: {"file_url": "http://[::ffff:10.0.0.1]/"},
		`what Steam says about it cannot be understood: …"many" is no number`:                                               {"file_size": "many"},
	} {
		t.Run(want, func(t *testing.T) {
			s := newSteam(t)
			s.item("1", "one", keys)
			s.item("2", "two", nil)
			f := s.fetch("1", "2")
			r := f.must(t)
			got := missing(r)
			// A decoder may say where it was, too.
			begin, end, _ := strings.Cut(want, "…")
			if len(got) != 1 || !strings.HasPrefix(got["1"], begin) || !strings.HasSuffix(got["1"], end) || end == "" && got["1"] != want {
				t.Errorf("missing %q", got)
			}
			if names := f.names(t); !slices.Equal(names, []string{"2-1700000000.vpk"}) {
				t.Errorf("files %v", names)
			}
		})
	}
}

func TestFileNames(t *testing.T) {
	for name, want := range map[string]string{
		"a.vpk": "a.vpk", "myl4d2addons/a.vpk": "a.vpk", "my l4d2addons/a b.VPK": "a b.vpk", "": "", "x/y/死亡.vpk": "死亡.vpk", "a.vpk ": "a.vpk",
	} {
		if got, err := fileName(name); got != want || err != nil {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}

// cut has the server send less than it said, from the file's beginning on or from where it was asked to.
func (s *steam) cut(id string, n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rest := s.files[id]
		if from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
			at, err := strconv.Atoi(strings.TrimSuffix(from, "-"))
			if err != nil || at >= len(rest) {
				s.t.Errorf("range %q", from)
				return
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(rest)-1, len(rest)))
			rest = rest[at:]
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(rest[:n])
	}
}

func answer(code int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
	}
}

// reset ends the connection in the middle of nothing.
func reset(w http.ResponseWriter, _ *http.Request) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

func TestDownloads(t *testing.T) {
	text := strings.Repeat("x", 1000)
	size := len(vpk(text))
	send := func(w http.ResponseWriter, data []byte) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush() // so its length is not told
		_, _ = w.Write(data)
	}
	for what, c := range map[string]struct {
		times   int
		fault   func(*steam) http.HandlerFunc
		missing string   // a part of it; "" = it is fetched
		asked   []string // of the file
	}{
		"cut off": {1, func(s *steam) http.HandlerFunc { return s.cut("1", 400) }, "", []string{"1", "1 bytes=400-"}},
		"cut off again and again": {9, func(s *steam) http.HandlerFunc { return s.cut("1", 100) }, "", []string{"1", "1 bytes=100-", "1 bytes=200-", "1 bytes=300-",
			"1 bytes=400-", "1 bytes=500-", "1 bytes=600-", "1 bytes=700-", "1 bytes=800-", "1 bytes=900-"}},
		"cut off at once, always": {99, func(s *steam) http.HandlerFunc { return s.cut("1", 0) }, "cut off after 0 of 1004 bytes", slices.Repeat([]string{"1"}, maxTries)},
		"no ranges": {2, func(s *steam) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Range") == "" {
					s.cut("1", 400)(w, r)
				} else {
					send(w, s.files["1"])
				}
			}
		}, "", []string{"1", "1 bytes=400-"}},
		"another range": {2, func(s *steam) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Range") == "" {
					s.cut("1", 400)(w, r)
				} else {
					answer(http.StatusPartialContent, "Content-Range", "bytes 0-1003/1004")(w, r)
				}
			}
		}, "", []string{"1", "1 bytes=400-", "1"}},
		"a range of another file": {2, func(s *steam) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Range") == "" {
					s.cut("1", 400)(w, r)
				} else {
					answer(http.StatusPartialContent, "Content-Range", "bytes 400-499/500")(w, r)
				}
			}
		}, "", []string{"1", "1 bytes=400-", "1"}},
		"the rest is not there": {2, func(s *steam) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Range") == "" {
					s.cut("1", 400)(w, r)
				} else {
					answer(http.StatusRequestedRangeNotSatisfiable)(w, r)
				}
			}
		}, "", []string{"1", "1 bytes=400-", "1"}},
		"429":                  {2, func(*steam) http.HandlerFunc { return answer(http.StatusTooManyRequests) }, "", []string{"1", "1", "1"}},
		"429, come back later": {1, func(*steam) http.HandlerFunc { return answer(http.StatusTooManyRequests, "Retry-After", "1") }, "", []string{"1", "1"}},
		"429, come tomorrow": {1, func(*steam) http.HandlerFunc { return answer(http.StatusTooManyRequests, "Retry-After", "86400") },
			"answers 429 Too Many Requests, and wants to be asked again only in 24h0m0s", []string{"1"}},
		"503":           {5, func(*steam) http.HandlerFunc { return answer(http.StatusServiceUnavailable) }, "", slices.Repeat([]string{"1"}, 6)},
		"503, always":   {99, func(*steam) http.HandlerFunc { return answer(http.StatusServiceUnavailable) }, "answers 503 Service Unavailable", slices.Repeat([]string{"1"}, maxTries)},
		"403":           {1, func(*steam) http.HandlerFunc { return answer(http.StatusForbidden) }, "answers 403 Forbidden", []string{"1"}},
		"reset":         {3, func(*steam) http.HandlerFunc { return reset }, "", slices.Repeat([]string{"1"}, 4)},
		"3 GB are told": {1, func(*steam) http.HandlerFunc { return answer(http.StatusOK, "Content-Length", "3221225472") }, "wants to send 3221225472 bytes, where Steam says that there are 1004", []string{"1"}},
		"less is told":  {1, func(*steam) http.HandlerFunc { return answer(http.StatusOK, "Content-Length", "4") }, "wants to send 4 bytes, where", []string{"1"}},
		"more is sent": {1, func(s *steam) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { send(w, append(vpk(text), 'x')) }
		}, "its file is longer than the 1004 bytes that Steam says", []string{"1"}},
		"less is sent": {1, func(s *steam) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { send(w, vpk("x")) }
		}, "", []string{"1", "1 bytes=5-"}},
		"no VPK": {1, func(s *steam) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { send(w, []byte(strings.Repeat("<html>", 9999)[:size])) }
		}, `its file is no VPK: it begins with "<htm"`, []string{"1"}},
		"to another file": {1, func(s *steam) http.HandlerFunc {
			return http.RedirectHandler(s.url+"/files/2", http.StatusFound).ServeHTTP
		}, "wants to send 8 bytes", []string{"1", "2"}},
		"to itself": {99, func(s *steam) http.HandlerFunc {
			return http.RedirectHandler(s.url+"/files/1", http.StatusFound).ServeHTTP
		}, "more than 5 redirects are not allowed", slices.Repeat([]string{"1"}, 6)},
		"to a file here": {1, func(s *steam) http.HandlerFunc {
			return http.RedirectHandler("file:///etc/passwd", http.StatusFound).ServeHTTP
		}, `a redirect to "file:///etc/passwd" is not allowed: scheme "file"`, []string{"1"}},
		"to a neighbour": {1, func(s *steam) http.HandlerFunc {
			return http.RedirectHandler("http://169.254.169.254/latest", http.StatusFound).ServeHTTP
		}, "169.254.169.254 is no address of the internet", []string{"1"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newSteam(t)
			s.item("1", text, nil)
			s.item("2", "good", nil)
			s.only(c.times, "/files/1", c.fault(s))
			f := s.fetch("1", "2")
			f.order.Parallel = 1
			r := f.must(t)
			got := missing(r)["1"]
			if (got == "") != (c.missing == "") || !strings.Contains(got, c.missing) {
				t.Errorf("missing %q", got)
			}
			names := f.names(t)
			if data, _ := os.ReadFile(f.in + "/1-1700000000.vpk"); c.missing == "" && !bytes.Equal(data, vpk(text)) {
				t.Errorf("%d bytes, not what was offered", len(data))
			}
			if c.missing != "" && slices.Contains(names, "1-1700000000.vpk") {
				t.Error("it has its name")
			}
			if !slices.Contains(names, "2-1700000000.vpk") {
				t.Error("the other one is not there")
			}
			var asked []string
			for _, what := range s.asked {
				if _, err := strconv.Atoi(what[:1]); err == nil {
					asked = append(asked, what)
				}
			}
			if !slices.Equal(asked[:len(asked)-1], c.asked) {
				t.Errorf("asked %q", asked)
			}
		})
	}
}

// A server that says nothing any more is left, and asked again.
func TestServerThatFallsSilent(t *testing.T) {
	s := newSteam(t)
	s.item("1", strings.Repeat("x", 1000), nil)
	gone := make(chan struct{})
	s.only(1, "/files/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1004")
		_, _ = w.Write(s.files["1"][:400])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(gone)
	})
	f := s.fetch("1")
	f.idle = 200 * time.Millisecond
	if r := f.must(t); r.Fetched != 1 {
		t.Errorf("%+v", r)
	}
	<-gone
}

// What a worker had when it was killed is not fetched again.
func TestWhatWasBegunIsTakenUp(t *testing.T) {
	text := strings.Repeat("x", 1000)
	for what, c := range map[string]struct {
		name, holds string
		asked       []string
	}{
		"half":         {"1-1700000000.vpk.part", string(vpk(text)[:500]), []string{"1 bytes=500-"}},
		"all":          {"1-1700000000.vpk.part", string(vpk(text)), nil},
		"too much":     {"1-1700000000.vpk.part", string(vpk(text)) + "x", []string{"1"}},
		"named":        {"1-1700000000.vpk", string(vpk(text)), nil},
		"named, short": {"1-1700000000.vpk", string(vpk(text)[:500]), []string{"1"}},
		"older":        {"1-1600000000.vpk.part", string(vpk(text)[:500]), []string{"1"}},
	} {
		t.Run(what, func(t *testing.T) {
			s := newSteam(t)
			s.item("1", text, nil)
			f := s.fetch("1")
			for _, name := range []string{c.name, "3-1.vpk.part", "notes"} {
				if err := os.WriteFile(f.in+"/"+name, []byte(c.holds), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := missing(f.must(t)); len(got) > 0 {
				t.Errorf("missing %v", got)
			}
			if got, err := os.ReadFile(f.in + "/1-1700000000.vpk"); !bytes.Equal(got, vpk(text)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if got := f.names(t); !slices.Equal(got, []string{"1-1700000000.vpk"}) {
				t.Errorf("left: %v", got)
			}
			if got := s.asked[2:]; !slices.Equal(got, c.asked) {
				t.Errorf("asked %q", got)
			}
		})
	}
}

// A worker that was taken over may have left anything for the next one.
func TestPlantedFiles(t *testing.T) {
	for what, c := range map[string]struct {
		plant func(name, outside string) error
		want  string
	}{
		"a link":         {func(name, outside string) error { return os.Symlink(outside, name) }, "a link is in the way"},
		"a hanging link": {func(name, outside string) error { return os.Symlink(outside+"2", name) }, "a link is in the way"},
		"a second name":  {func(name, outside string) error { return os.Link(outside, name) }, "is in the way: it has 2 names"},
		"a FIFO":         {func(name, _ string) error { return unix.Mkfifo(name, 0o644) }, "is in the way: it is not a regular file"},
		"a directory":    {func(name, _ string) error { return os.Mkdir(name, 0o755) }, "is"},
	} {
		for _, name := range []string{"1-1700000000.vpk", "1-1700000000.vpk.part"} {
			t.Run(what+" as "+name, func(t *testing.T) {
				s := newSteam(t)
				s.item("1", "one", nil)
				s.item("2", "two", nil)
				f := s.fetch("1", "2")
				outside := t.TempDir() + "/outside"
				if err := errors.Join(os.WriteFile(outside, []byte("outside"), 0o644), c.plant(f.in+"/"+name, outside)); err != nil {
					t.Fatal(err)
				}
				r := f.must(t)
				if got := missing(r); len(got) != 1 || !strings.Contains(got["1"], c.want) || !strings.Contains(got["1"], strconv.Quote(name)) {
					t.Errorf("missing %q", got)
				}
				if got, err := os.ReadFile(outside); string(got) != "outside" {
					t.Errorf("outside is %q, %v", got, err)
				}
				if _, err := os.Lstat(outside + "2"); err == nil {
					t.Error("a file was made outside")
				}
				// It was told, and is in nobody's way any more.
				if got := missing(f.must(t)); len(got) != 0 {
					t.Errorf("the next time %q is missing", got)
				}
			})
		}
	}
}

func TestAPIFaults(t *testing.T) {
	for what, c := range map[string]struct {
		times int
		fault http.HandlerFunc
		want  string // the error; "" = none
	}{
		"429":   {3, answer(http.StatusTooManyRequests, "Retry-After", "0"), ""},
		"503":   {maxTries - 1, answer(http.StatusServiceUnavailable), ""},
		"reset": {2, reset, ""},
		"half an answer": {1, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"response":{"result":1,"coll`)
		}, ""},
		"a cut answer": {1, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "999")
			_, _ = io.WriteString(w, `{"resp`)
		}, ""},
		"no details":        {1, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"response":{}}`) }, ""},
		"503, always":       {99, answer(http.StatusServiceUnavailable), "cannot ask Steam: HOST answers 503 Service Unavailable"},
		"400":               {1, answer(http.StatusBadRequest), "cannot ask Steam: HOST answers 400 Bad Request"},
		"elsewhere":         {1, answer(http.StatusMovedPermanently, "Location", "http://example.com/"), "cannot ask Steam: HOST answers 301 Moved Permanently"},
		"a page for people": {99, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "cannot ask Steam: the answer cannot be understood: invalid character '<' looking for beginning of value"},
		"without an end": {1, func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, "cannot ask Steam: the answer has more than 16777216 bytes"},
		"ids that are none": {99, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"response":{"collectiondetails":[{"publishedfileid":"1","result":1,"children":[{"publishedfileid":"../2","filetype":0}]}]}}`)
		}, `cannot ask Steam: the answer has "../2" in collection 1, which is no id`},
	} {
		for _, method := range []string{"GetCollectionDetails", "GetPublishedFileDetails"} {
			if what == "ids that are none" && method != "GetCollectionDetails" {
				continue
			}
			t.Run(what+" of "+method, func(t *testing.T) {
				t.Parallel()
				s := newSteam(t)
				s.item("1", "one", nil)
				s.only(c.times, method, c.fault)
				r, err := s.fetch("1").run(t)
				want := strings.ReplaceAll(c.want, "HOST", strings.TrimPrefix(s.url, "http://"))
				switch {
				case want == "" && (err != nil || r.Fetched != 1 || r.Requests != c.times+2):
					t.Errorf("%+v, %v", r, err)
				case want != "" && (err == nil || err.Error() != want):
					t.Errorf("%v", err)
				}
			})
		}
	}
}

// Where a part of what is asked cannot be had, the rest is built.
func TestABatchThatFails(t *testing.T) {
	s := newSteam(t)
	var ids []string
	for i := range maxBatch + 5 {
		ids = append(ids, strconv.Itoa(i+1))
		s.item(ids[i], ids[i], nil)
	}
	s.fault = func(w http.ResponseWriter, r *http.Request) bool {
		first := strings.Contains(r.URL.Path, "GetPublishedFileDetails") && r.FormValue("publishedfileids[0]") == "1"
		if first {
			w.WriteHeader(http.StatusBadGateway)
		}
		return first
	}
	r := s.fetch(ids...).must(t)
	if got := missing(r); len(got) != maxBatch || !strings.Contains(got["7"], "cannot ask Steam: ") || r.Fetched != 5 || len(r.Items) != len(ids) {
		t.Errorf("%d missing, %d fetched: %q", len(got), r.Fetched, got["7"])
	}
}

func TestWorkshopBounds(t *testing.T) {
	s := newSteam(t)
	for i := range 30 {
		s.collection(strconv.Itoa(i+1), fmt.Sprintf("+%d", i+2))
	}
	r := s.fetch("1").must(t)
	if got := missing(r)["12"]; got != "the collection lies within more than 10 others" || len(r.Items) != 1 || r.Requests != 11 {
		t.Errorf("%+v", r)
	}
	var many, collections []string
	for i := range maxItems + 1 {
		many = append(many, strconv.Itoa(i+1000))
		collections = append(collections, fmt.Sprintf("+%d", i+1000))
	}
	s.collection("100", many...)
	s.collection("200", collections...)
	for id, want := range map[string]string{"100": "the collections hold more than 2000 items", "200": "the collections hold more than 2000 others"} {
		if _, err := s.fetch(id).run(t); err == nil || err.Error() != want {
			t.Errorf("%v", err)
		}
	}
}

// A cancel ends the pause before the next try, however long.
func TestCancelEndsThePause(t *testing.T) {
	for _, part := range []string{"GetCollectionDetails", "/files/"} {
		t.Run(part, func(t *testing.T) {
			s := newSteam(t)
			s.item("1", "one", nil)
			s.only(99, part, answer(http.StatusServiceUnavailable))
			f := s.fetch("1")
			f.pause = 24 * time.Hour
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			f.ctx = ctx
			f.note = func(text string) {
				if strings.Contains(text, "trying again") {
					cancel()
				}
			}
			if _, err := f.run(t); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

func TestSeveralAtATime(t *testing.T) {
	s := newSteam(t)
	var ids []string
	for i := range 6 {
		ids = append(ids, strconv.Itoa(i+1))
		s.item(ids[i], ids[i], nil)
	}
	var now, most int
	var mu sync.Mutex
	met := make(chan struct{})
	s.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/files/") {
			return false
		}
		mu.Lock()
		now++
		if most = max(most, now); now == 2 {
			select {
			case <-met:
			default:
				close(met)
			}
		}
		mu.Unlock()
		<-met
		mu.Lock()
		now--
		mu.Unlock()
		return false
	}
	if r := s.fetch(ids...).must(t); r.Fetched != 6 || most != 2 {
		t.Errorf("%d fetched, %d at a time", r.Fetched, most)
	}
}

// Whoever writes an item must not be able to have the machine's own services asked, whatever name leads there.
func TestOwnNetworkIsClosed(t *testing.T) {
	s := newSteam(t)
	s.item("1", "one", map[string]any{"file_url": strings.Replace(s.url, "127.0.0.1", "localhost", 1) + "/files/1"})
	f := s.fetch("1")
	r := f.must(t)
	if got := missing(r)["1"]; !strings.Contains(got, "is no address of the internet, which is not allowed") || len(s.asked) != 2 {
		t.Errorf("missing %q, asked %v", got, s.asked)
	}
	f.order.Private = true
	if r := f.must(t); r.Fetched != 1 {
		t.Errorf("%+v", r)
	}
}

func TestProxy(t *testing.T) {
	s := newSteam(t)
	s.item("1", "one", map[string]any{"file_url": "http://files.invalid/files/1"})
	s.item("2", "two", map[string]any{"file_url": "http://10.0.0.1/files/1"})
	f := s.fetch("1", "2")
	f.order.API, f.order.Proxy = "http://api.invalid", s.url
	if r := f.must(t); r.Fetched != 1 || !strings.Contains(missing(r)["2"], "10.0.0.1 is no address of the internet") {
		t.Errorf("%+v", r)
	}
	f.order.Proxy = "ftp://user:secret@a"
	if _, err := f.run(t); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func TestBadWorkshopOrders(t *testing.T) {
	good := order.Workshop{Items: []string{"1"}, API: "http://127.0.0.1:1", Parallel: 1}
	for what, c := range map[string]struct {
		change func(*order.Workshop)
		want   string
	}{
		"nothing":         {func(o *order.Workshop) { o.Items = nil }, "the order has no items"},
		"too many":        {func(o *order.Workshop) { o.Items = make([]string, maxItems+1) }, "the order has 2001 items: at most 2000 are allowed"},
		"no id":           {func(o *order.Workshop) { o.Items = []string{"1&x=2"} }, `"1&x=2" is no id of an item`},
		"a zero":          {func(o *order.Workshop) { o.Items = []string{"01"} }, `"01" is no id of an item`},
		"a collection":    {func(o *order.Workshop) { o.Collections = []string{"a"} }, `"a" is no id of an item`},
		"none at a time":  {func(o *order.Workshop) { o.Parallel = 0 }, "0 downloads at a time are not allowed: use 1 to 16"},
		"many at a time":  {func(o *order.Workshop) { o.Parallel = 17 }, "17 downloads at a time are not allowed: use 1 to 16"},
		"no API":          {func(o *order.Workshop) { o.API = "" }, `the API at "": scheme "" is not allowed: use http or https`},
		"a file as API":   {func(o *order.Workshop) { o.API = "file:///x" }, `the API at "file:///x": scheme "file" is not allowed: use http or https`},
		"a strange proxy": {func(o *order.Workshop) { o.Proxy = "x" }, "the proxy is no http, https or socks5 URL"},
	} {
		t.Run(what, func(t *testing.T) {
			f := &fetching{in: t.TempDir(), ctx: context.Background(), workshop: &workshop{order: good, log: io.Discard, note: func(string) {}}}
			c.change(&f.order)
			var usage usageError
			if _, err := f.run(t); !errors.As(err, &usage) || err.Error() != c.want {
				t.Error(err)
			}
		})
	}
}

// A result that an earlier worker left is not taken for this one's.
func TestOldResultGoes(t *testing.T) {
	s := newSteam(t)
	s.only(99, "Get", answer(http.StatusServiceUnavailable))
	f := s.fetch("1")
	if err := os.WriteFile(f.in+"/"+order.ResultName, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := f.run(t); err == nil {
		t.Error("it did not fail")
	}
}

func TestWorkshopCommand(t *testing.T) {
	s := newSteam(t)
	s.item("1", "one", nil)
	s.item("2", "two\x1b[31m", map[string]any{"title": "a\nb", "consumer_app_id": 440})
	text, err := json.Marshal(order.Workshop{Items: []string{"1", "2"}, API: s.url, Parallel: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	var stderr bytes.Buffer
	code := run([]string{"workshop"}, func(string) string { return "" }, bytes.NewReader(text), &stderr)
	want := "fetched 1-1700000000.vpk \"Map 1\", 7 bytes\nnot to be had: 2 \"a b\": it is for app 440, not for Left 4 Dead 2, 550\nfetched 1 files, 7 bytes; 2 items, 1 not to be had, asked 2 times\n"
	if code != 0 || stderr.String() != want {
		t.Errorf("exit %d, %s", code, stderr.String())
	}
	stderr.Reset()
	if code := run([]string{"workshop"}, func(string) string { return "" }, strings.NewReader("{"), &stderr); code != 2 || !strings.HasPrefix(stderr.String(), "left4-worker: the order cannot be understood: ") {
		t.Errorf("exit %d, %s", code, stderr.String())
	}
}

func FuzzSteamAnswers(f *testing.F) {
	f.Add([]byte(`{"response":{"result":1,"resultcount":1,"collectiondetails":[{"publishedfileid":"1","result":1,"children":[{"publishedfileid":"2","sortorder":1,"filetype":0},{"publishedfileid":"3","filetype":2}]}]}}`))
	f.Add([]byte(`{"response":{"publishedfiledetails":[{"publishedfileid":"1","result":1,"consumer_app_id":550,"filename":"myl4d2addons/a.vpk","file_size":"4","file_url":"https://a/b","title":"t","time_updated":5,"visibility":0,"banned":false}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		asked := []string{"1"}
		if all, err := readCollections(text, asked); err == nil {
			for id, c := range all {
				if id != "1" {
					t.Fatalf("%q was not asked for", id)
				}
				for _, child := range c.Children {
					if !isID(child.ID) {
						t.Fatalf("%q is an id", child.ID)
					}
				}
			}
		}
		all, err := readDetails(text, asked)
		if err != nil {
			return
		}
		s := &workshop{largest: maxDownload}
		for id, d := range all {
			w, err := s.judge(id, d)
			if id != "1" || err == nil && (w.from == nil || w.Size <= 0 || w.Size > maxDownload || w.Updated < 0 || strings.ContainsAny(w.FileName(), "/\x00")) {
				t.Fatalf("%q: %+v", id, w)
			}
			if strings.ContainsAny(w.Title, "\n\x1b") || len(w.Title) > maxTitle {
				t.Fatalf("title %q", w.Title)
			}
		}
	})
}

func FuzzFileName(f *testing.F) {
	for _, name := range []string{"a.vpk", "myl4d2addons/a.VPK", "../a.vpk", "a/../b.vpk", "\x00.vpk", " .vpk", "a\u202e.vpk"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got, err := fileName(name)
		if err != nil || got == "" && name == "" {
			return
		}
		if filepath.Base(got) != got || got[0] == '.' || !strings.HasSuffix(got, ".vpk") || len(got) > maxFileName || status.Line(got, 1000) != got && !strings.Contains(got, " ") {
			t.Fatalf("%q became %q", name, got)
		}
		if again, err := fileName(got); err != nil || again != got {
			t.Fatalf("%q became %q, %v", got, again, err)
		}
	})
}
