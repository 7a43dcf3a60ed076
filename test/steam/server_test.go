package steam

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"left4.me/left4/test/steam/vpk"
)

func serve(t *testing.T, w World) (*Server, string) {
	t.Helper()
	s := &Server{}
	if err := s.Set(w); err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(s)
	t.Cleanup(ts.Close)
	return s, ts.URL
}

// ask calls a method of the Web API and returns the status and the body.
func ask(t *testing.T, base, method, count string, ids ...string) (int, string) {
	t.Helper()
	form := url.Values{count: {fmt.Sprint(len(ids))}}
	for n, id := range ids {
		form.Set(fmt.Sprintf("publishedfileids[%d]", n), id)
	}
	answer, err := http.PostForm(base+"/ISteamRemoteStorage/"+method+"/v1/", form)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func details(t *testing.T, base string, ids ...string) []map[string]any {
	t.Helper()
	var answer struct {
		Response struct {
			Publishedfiledetails []map[string]any
		}
	}
	_, text := ask(t, base, "GetPublishedFileDetails", "itemcount", ids...)
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return answer.Response.Publishedfiledetails
}

func TestCollections(t *testing.T) {
	s, base := serve(t, World{Collections: map[string][]Child{"20": {{ID: "1"}, {ID: "21", Collection: true}}}})
	_, text := ask(t, base, "GetCollectionDetails", "collectioncount", "20", "1")
	const want = `{"response":{"collectiondetails":[` +
		`{"children":[{"filetype":0,"publishedfileid":"1","sortorder":0},{"filetype":2,"publishedfileid":"21","sortorder":1}],"publishedfileid":"20","result":1},` +
		`{"publishedfileid":"1","result":9}],"result":1,"resultcount":2}}`
	if text != want {
		t.Errorf("got %s", text)
	}
	if r := s.Requests(true); len(r) != 1 || r[0].On != "collections" || r[0].What != "20,1" || r[0].Bytes != int64(len(want)) {
		t.Errorf("%v", r)
	}
	if r := s.Requests(false); len(r) != 0 {
		t.Errorf("not forgotten: %v", r)
	}
}

func TestDetails(t *testing.T) {
	_, base := serve(t, World{
		Collections: map[string][]Child{"20": nil},
		Items: map[string]Item{
			"2": {Title: "Dead Air!", Updated: 7, Size: 5000},
			"3": {Title: "b", Updated: 8, Filename: "../b.vpk", NoURL: true, App: 440, Banned: true, Visibility: 2},
			"4": {Result: 9},
			"5": {FileSize: json.RawMessage(`"-1"`), URL: "http://127.0.0.1:1/"},
		},
	})
	d := details(t, base, "2", "3", "4", "5", "6", "20")
	for n, want := range []map[string]any{
		{"result": 1.0, "consumer_app_id": 550.0, "filename": "myl4d2addons/dead_air.vpk", "file_size": "5000", "time_updated": 7.0, "banned": 0.0},
		{"result": 1.0, "consumer_app_id": 440.0, "filename": "../b.vpk", "file_url": "", "banned": 1.0, "visibility": 2.0},
		{"result": 9.0, "title": nil},
		{"file_size": "-1", "file_url": "http://127.0.0.1:1/"},
		{"result": 9.0, "title": nil},
		{"result": 1.0, "creator_app_id": 766.0, "file_size": 0.0, "filename": ""},
	} {
		for key, value := range want {
			if d[n][key] != value {
				t.Errorf("%d: %s is %v, not %v", n, key, d[n][key], value)
			}
		}
	}
	if _, number := d[1]["file_size"].(float64); !number {
		t.Errorf("the size of an item with an odd id is %T", d[1]["file_size"])
	}
}

func TestAWrongCallIsHTML(t *testing.T) {
	_, base := serve(t, World{})
	if code, text := ask(t, base, "GetPublishedFileDetails", "collectioncount", "1"); code != 400 || !strings.Contains(text, "'itemcount'") {
		t.Errorf("%d %s", code, text)
	}
	answer, err := http.Get(base + "/ISteamRemoteStorage/GetPublishedFileDetails/v1/")
	if err != nil || answer.StatusCode != 405 {
		t.Errorf("%+v, %v", answer, err)
	}
}

// get fetches the file of an item from an offset.
func get(t *testing.T, base, id string, from int) (*http.Response, []byte, error) {
	t.Helper()
	address, _ := details(t, base, id)[0]["file_url"].(string)
	req, err := http.NewRequest("GET", address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer, body, err
}

func TestAFileIsAVPKWithItsCampaign(t *testing.T) {
	_, base := serve(t, World{Items: map[string]Item{"1": {Title: "a", Updated: 1, Campaign: "deadair", Maps: []string{"da1", "da2"}, Size: 9000}}})
	_, body, err := get(t, base, "1", 0)
	if err != nil || len(body) != 9000 || binary.LittleEndian.Uint32(body) != vpk.Signature || binary.LittleEndian.Uint32(body[4:]) != 1 {
		t.Fatalf("%d bytes, %v", len(body), err)
	}
	tree := body[12 : 12+binary.LittleEndian.Uint32(body[8:])]
	for _, name := range []string{"txt\x00missions\x00deadair\x00", "bsp\x00maps\x00da2\x00"} {
		if !bytes.Contains(tree, []byte(name)) {
			t.Errorf("no %q", name)
		}
	}
	if !bytes.Contains(body, []byte(vpk.Mission("deadair", []string{"da1", "da2"}))) {
		t.Error("no mission")
	}
	_, rest, err := get(t, base, "1", 8000)
	if err != nil || !bytes.Equal(rest, body[8000:]) {
		t.Errorf("%d bytes of a range, %v", len(rest), err)
	}
}

func TestAChangedItemHasAnotherFileElsewhere(t *testing.T) {
	w := World{Items: map[string]Item{"1": {Title: "a", Updated: 1}}}
	s, base := serve(t, w)
	before := details(t, base, "1")[0]["file_url"].(string)
	_, old, err := get(t, base, "1", 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Items = map[string]Item{"1": {Title: "a", Updated: 2}}
	if err := s.Set(w); err != nil {
		t.Fatal(err)
	}
	answer, err := http.Get(before)
	if err != nil || answer.StatusCode != 404 {
		t.Errorf("the old address: %v, %v", answer, err)
	}
	if _, now, err := get(t, base, "1", 0); err != nil || bytes.Equal(now, old) {
		t.Errorf("the new file is the old one (%v)", err)
	}
}

func TestFaultsOfHTTP(t *testing.T) {
	http.DefaultClient.CloseIdleConnections()
	for _, c := range []struct {
		fault Fault
		from  int
		want  func(a *http.Response, body []byte, err error) bool
	}{
		{Fault{Kind: "status", Code: 429, Text: "7"}, 0, func(a *http.Response, _ []byte, err error) bool {
			return err == nil && a.StatusCode == 429 && a.Header.Get("Retry-After") == "7"
		}},
		{Fault{Kind: "cut", Bytes: 100}, 0, func(a *http.Response, b []byte, err error) bool {
			return err == io.ErrUnexpectedEOF && len(b) == 100 && a.ContentLength == 5000
		}},
		{Fault{Kind: "cut", Bytes: 100}, 1000, func(a *http.Response, b []byte, err error) bool {
			return err == io.ErrUnexpectedEOF && len(b) == 100 && a.StatusCode == 206 && a.ContentLength == 4000
		}},
		{Fault{Kind: "reset", Bytes: 100}, 0, func(_ *http.Response, _ []byte, err error) bool { return errors.Is(err, syscall.ECONNRESET) }},
		{Fault{Kind: "length", Bytes: 3 << 30}, 0, func(a *http.Response, b []byte, err error) bool {
			return err == io.ErrUnexpectedEOF && len(b) == 5000 && a.ContentLength == 3<<30
		}},
		{Fault{Kind: "redirect"}, 0, func(_ *http.Response, _ []byte, err error) bool {
			return err != nil && strings.Contains(err.Error(), "10 redirects")
		}},
		{Fault{Kind: "redirect", Text: "http://127.0.0.1:1/x"}, 0, func(_ *http.Response, _ []byte, err error) bool {
			return errors.Is(err, syscall.ECONNREFUSED)
		}},
		{Fault{Kind: "html"}, 0, func(a *http.Response, b []byte, err error) bool {
			return err == nil && a.StatusCode == 200 && bytes.HasPrefix(b, []byte("<!DOCTYPE html>"))
		}},
		{Fault{Kind: "slow", Bytes: 1000}, 1000, func(a *http.Response, b []byte, err error) bool {
			return err == nil && a.StatusCode == 206 && len(b) == 4000
		}},
		{Fault{Kind: "no-ranges"}, 1000, func(a *http.Response, b []byte, err error) bool {
			return err == nil && a.StatusCode == 200 && len(b) == 5000
		}},
	} {
		c.fault.On, c.fault.Only, c.fault.After, c.fault.Times = "file", "2", 1, 2
		if c.fault.Kind == "redirect" && c.fault.Text == "" {
			c.fault.Times = 0
		}
		s, base := serve(t, World{Items: map[string]Item{"2": {Title: "a", Updated: 1, Size: 5000}, "3": {Title: "b"}}, Faults: []Fault{c.fault}})
		if a, _, err := get(t, base, "2", 0); err != nil || a.StatusCode != 200 {
			t.Errorf("%+v: the first one fails: %v", c.fault, err)
		}
		if a, b, err := get(t, base, "2", c.from); !c.want(a, b, err) {
			t.Errorf("%+v: %d bytes, %v", c.fault, len(b), err)
		}
		if a, _, err := get(t, base, "3", 0); err != nil || a.StatusCode != 200 {
			t.Errorf("%+v: befalls another item: %v", c.fault, err)
		}
		if c.fault.Times > 0 {
			_, _, _ = get(t, base, "2", 0)
			if a, b, err := get(t, base, "2", 0); err != nil || a.StatusCode != 200 || len(b) != 5000 {
				t.Errorf("%+v: does not end: %v", c.fault, err)
			}
		}
		befell := 0
		for _, r := range s.Requests(false) {
			if r.Fault == c.fault.Kind {
				befell++
			}
		}
		if befell == 0 || c.fault.Times > 0 && befell != c.fault.Times {
			t.Errorf("%+v: told of %d times", c.fault, befell)
		}
	}
}

// A peer that says no more, or never ends, does so until the client has had enough.
func TestAnswersWithoutAnEnd(t *testing.T) {
	for _, kind := range []string{"stall", "endless"} {
		_, base := serve(t, World{Items: map[string]Item{"2": {Title: "a", Size: 5000}}, Faults: []Fault{{On: "file", Kind: kind, Bytes: 10}}})
		answer, err := http.Get(details(t, base, "2")[0]["file_url"].(string))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.CopyN(io.Discard, answer.Body, map[string]int64{"stall": 10, "endless": 1 << 20}[kind]); err != nil {
			t.Errorf("%s: %d bytes, %v", kind, n, err)
		}
		answer.Body.Close()
	}
}

func TestAWorldThatCannotBe(t *testing.T) {
	_, base := serve(t, World{})
	c := Client{base}
	for _, w := range []World{{Faults: []Fault{{On: "file", Kind: "hang"}}}, {Items: map[string]Item{"a": {}}}, {Game: Game{Sizes: map[string]int64{"../x": 1}}}} {
		if err := c.Set(w); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("%+v: %v", w, err)
		}
	}
	want := World{Game: Game{Build: "1", Pace: Duration(time.Second)}, Items: map[string]Item{"1": {Content: []byte{0, 255}}}}
	if err := c.Set(want); err != nil {
		t.Fatal(err)
	}
	got, err := c.World()
	if err != nil || got.Game.Build != "1" || got.Game.Pace != want.Game.Pace || !bytes.Equal(got.Items["1"].Content, []byte{0, 255}) {
		t.Errorf("%+v, %v", got, err)
	}
}
