package steam

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultAddress is where left4-steam listens, and where the programs look for it.
const DefaultAddress = "http://127.0.0.1:27900"

// Request is one event: a request to the Web API or for a file, or a run of a program.
type Request struct {
	On    string // "collections", "details", "file", "manifest", "depot", "steamcmd", "depotdownloader"
	What  string // the ids, the file's id or path, the arguments
	Range string `json:",omitempty"`
	Fault string `json:",omitempty"` // that befell it
	Bytes int64  // of the body that was sent
}

// Requests are in the order in which they came.
type Requests []Request

// Count is how many there were of these kinds.
func (r Requests) Count(on ...string) (n int) {
	for _, one := range r {
		if slices.Contains(on, one.On) {
			n++
		}
	}
	return n
}

// Bytes is how many were sent in answer to requests of that kind.
func (r Requests) Bytes(on string) (n int64) {
	for _, one := range r {
		if one.On == on {
			n += one.Bytes
		}
	}
	return n
}

func (r Requests) String() string {
	var b strings.Builder
	for _, one := range r {
		fmt.Fprintf(&b, "%s %s", one.On, one.What)
		if one.Range != "" {
			fmt.Fprintf(&b, " from %s", one.Range)
		}
		if one.Fault != "" {
			fmt.Fprintf(&b, " (%s)", one.Fault)
		}
		fmt.Fprintf(&b, ", %d bytes\n", one.Bytes)
	}
	return b.String()
}

// Server serves a World. Its zero value serves an empty one.
type Server struct {
	Tree string // directory with the files of the game, "" = there are none but those of the World

	mu        sync.Mutex
	world     World
	seen      []int // by fault: how many events it fitted
	requests  []*Request
	manifests map[string]manifest // by platform, of the world's build
}

// Set replaces the World. What the faults of the last one have counted begins anew.
func (s *Server) Set(w World) error {
	if err := w.check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.world, s.seen, s.manifests = w, make([]int, len(w.Faults)), nil
	return nil
}

// World is a copy of what is served, but for what its maps hold.
func (s *Server) World() World {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.world
}

// Requests are those since they were last asked for with forget.
func (s *Server) Requests(forget bool) Requests {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := make(Requests, len(s.requests))
	for n, one := range s.requests {
		r[n] = *one
	}
	if forget {
		s.requests = nil
	}
	return r
}

// fault is what befalls an event, if anything does.
func (s *Server) fault(on string, names ...string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, f := range s.world.Faults {
		if !f.fits(on, names...) {
			continue
		}
		s.seen[n]++
		if after := s.seen[n] - f.After; after > 0 && (f.Times == 0 || after <= f.Times) {
			return &f
		}
	}
	return nil
}

// note notes a request, before who sent it can know that it was answered. The function that it returns corrects the bytes.
func (s *Server) note(r Request) (sent func(int64)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, &r)
	return func(n int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		r.Bytes = n
	}
}

const (
	apiPath   = "/ISteamRemoteStorage/"
	filePath  = "/ugc/"
	depotPath = "/depot/"
	ownPath   = "/standin/"
)

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch p := r.URL.Path; {
	case strings.HasPrefix(p, apiPath):
		s.api(w, r)
	case strings.HasPrefix(p, filePath):
		s.file(w, r)
	case strings.HasPrefix(p, depotPath):
		s.depot(w, r)
	case strings.HasPrefix(p, ownPath):
		s.own(w, r)
	default:
		http.NotFound(w, r)
	}
}

// own is the part that no real Steam has: for the tests and for the two programs.
func (s *Server) own(w http.ResponseWriter, r *http.Request) {
	reply := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	fail := func(err error) { http.Error(w, err.Error(), http.StatusBadRequest) }
	switch what := strings.TrimPrefix(r.URL.Path, ownPath); {
	case what == "world" && r.Method == http.MethodPut:
		var world World
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		err := d.Decode(&world)
		if err == nil {
			err = s.Set(world)
		}
		if err != nil {
			fail(err)
		}
	case what == "world":
		reply(s.World())
	case what == "requests":
		reply(s.Requests(r.URL.Query().Has("forget")))
	case what == "item": // DepotDownloader asks for one
		id := r.URL.Query().Get("id")
		item, found := s.World().Items[id]
		if !found || item.Result > 1 {
			http.NotFound(w, r)
			return
		}
		content := item.file(id)
		sum := sha1.Sum(content)
		reply(publishedFile{Filename: item.filename(), SHA1: hex.EncodeToString(sum[:]), Size: int64(len(content)), URL: !item.NoURL})
	case what == "run": // a program begins
		var run run
		if err := json.NewDecoder(r.Body).Decode(&run); err != nil {
			fail(err)
			return
		}
		f := s.fault(run.Program, run.Args...)
		one := Request{On: run.Program, What: strings.Join(run.Args, " ")}
		if f != nil {
			one.Fault = f.Kind
		}
		s.note(one)
		game := s.World().Game
		reply(orders{Fault: f, Build: game.Build, Linux: game.Linux, Pace: game.Pace})
	default:
		http.NotFound(w, r)
	}
}

// A run is what a program tells when it begins, orders what it is to do then.
type run struct {
	Program string
	Args    []string
}

type orders struct {
	Fault *Fault
	Build string
	Linux bool
	Pace  Duration
}

// api answers as the Web API does: https://partner.steamgames.com/doc/webapi/ISteamRemoteStorage.
func (s *Server) api(w http.ResponseWriter, r *http.Request) {
	count, on := "itemcount", "details"
	switch strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, apiPath), "/") {
	case "GetCollectionDetails/v1":
		count, on = "collectioncount", "collections"
	case "GetPublishedFileDetails/v1":
	default:
		http.NotFound(w, r)
		return
	}
	bad := func(code int, text string) {
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		w.WriteHeader(code)
		fmt.Fprintf(w, "<html><head><title>%s</title></head><body><h1>%[1]s</h1>%s</body></html>", http.StatusText(code), text)
	}
	if r.Method != http.MethodPost {
		bad(http.StatusMethodNotAllowed, "This API must be called with a HTTP POST request")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	if err := r.ParseForm(); err != nil {
		bad(http.StatusBadRequest, "Please verify that all required parameters are being sent")
		return
	}
	n, err := strconv.Atoi(r.PostForm.Get(count))
	if err != nil || n < 1 {
		bad(http.StatusBadRequest, "Required parameter '"+count+"' is missing")
		return
	}
	ids := make([]string, n)
	for i := range ids {
		if ids[i] = r.PostForm.Get(fmt.Sprintf("publishedfileids[%d]", i)); ids[i] == "" {
			bad(http.StatusBadRequest, fmt.Sprintf("Required parameter 'publishedfileids[%d]' is missing", i))
			return
		}
	}
	var details []any
	world := s.World()
	for _, id := range ids {
		if on == "collections" {
			details = append(details, world.collection(id))
		} else {
			details = append(details, world.details(id, "http://"+r.Host))
		}
	}
	answer := map[string]any{"result": 1, "resultcount": n}
	answer[map[string]string{"collections": "collectiondetails", "details": "publishedfiledetails"}[on]] = details
	text, _ := json.Marshal(map[string]any{"response": answer})
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	s.send(w, r, on, strings.Join(ids, ","), ids, text)
}

// collection is what GetCollectionDetails says of an id.
func (w World) collection(id string) any {
	children, found := w.Collections[id]
	if !found {
		return map[string]any{"publishedfileid": id, "result": 9}
	}
	list := []any{}
	for n, c := range children {
		kind := 0
		if c.Collection {
			kind = 2
		}
		list = append(list, map[string]any{"publishedfileid": c.ID, "sortorder": n, "filetype": kind})
	}
	return map[string]any{"publishedfileid": id, "result": 1, "children": list}
}

// details is what GetPublishedFileDetails says of an id.
func (w World) details(id, base string) any {
	item, found := w.Items[id]
	_, collection := w.Collections[id]
	switch {
	case collection:
		return map[string]any{
			"publishedfileid": id, "result": 1, "creator": "76561197960265728", "creator_app_id": workshopApp, "consumer_app_id": GameApp,
			"filename": "", "file_size": 0, "file_url": "", "hcontent_file": "0", "title": "Collection " + id, "description": "",
			"time_created": 1, "time_updated": 1, "visibility": 0, "banned": 0, "ban_reason": "", "tags": []any{},
		}
	case !found:
		return map[string]any{"publishedfileid": id, "result": 9}
	case item.Result != 0 && item.Result != 1:
		return map[string]any{"publishedfileid": id, "result": item.Result}
	}
	app := item.App
	if app == 0 {
		app = GameApp
	}
	size := item.FileSize
	if size == nil {
		size = json.RawMessage(strconv.Itoa(len(item.file(id))))
		if (id[len(id)-1]-'0')%2 == 0 {
			size = json.RawMessage(`"` + string(size) + `"`)
		}
	}
	address := item.URL
	if address == "" && !item.NoURL {
		address = base + filePath + id + "/" + item.sum(id) + "/"
	}
	banned, why := 0, ""
	if item.Banned {
		banned, why = 1, "Violation of the rules"
	}
	return map[string]any{
		"publishedfileid": id, "result": 1, "creator": "76561197960265728", "creator_app_id": app, "consumer_app_id": app,
		"filename": item.filename(), "file_size": size, "file_url": address, "hcontent_file": "1" + id,
		"preview_url": base + "/preview/" + id, "hcontent_preview": "2" + id, "title": item.Title, "description": "An add-on.\r\n",
		"time_created": 1, "time_updated": item.Updated, "visibility": item.Visibility, "banned": banned, "ban_reason": why,
		"subscriptions": 1, "favorited": 1, "lifetime_subscriptions": 1, "lifetime_favorited": 1, "views": 1, "tags": []any{map[string]any{"tag": "Campaigns"}},
	}
}

// file serves an item's file as the content servers do: with ranges, under an address that is another one for each state.
func (s *Server) file(w http.ResponseWriter, r *http.Request) {
	id, sum, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, filePath), "/")
	item, found := s.World().Items[id]
	if !found || item.sum(id) != strings.TrimSuffix(sum, "/") || item.Result > 1 {
		s.note(Request{On: "file", What: id, Range: r.Header.Get("Range"), Fault: "gone"})
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+item.sum(id)+`"`)
	w.Header().Set("Last-Modified", time.Unix(item.Updated, 0).UTC().Format(http.TimeFormat))
	s.send(w, r, "file", id, []string{id}, item.file(id))
}

// depot serves the game to the two programs: /depot/linux is its manifest, /depot/linux/bin/engine_srv.so a file.
func (s *Server) depot(w http.ResponseWriter, r *http.Request) {
	platform, name, file := strings.Cut(strings.TrimPrefix(r.URL.Path, depotPath), "/")
	if platform == "ugc" { // an item of the workshop, as DepotDownloader fetches it
		if item, found := s.World().Items[name]; found {
			s.send(w, r, "depot", name, []string{name}, item.file(name))
			return
		}
		http.NotFound(w, r)
		return
	}
	m, game, err := s.manifest(platform)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if !file {
		text, _ := json.Marshal(m)
		s.send(w, r, "manifest", platform, nil, text)
		return
	}
	content, _, found := game.content(s.Tree, platform, name)
	if !found {
		http.NotFound(w, r)
		return
	}
	s.send(w, r, "depot", name, []string{name}, content)
}

func (s *Server) manifest(platform string) (manifest, Game, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, found := s.manifests[platform]
	if !found {
		var err error
		if m, err = s.world.Game.manifest(s.Tree, platform); err != nil {
			return m, s.world.Game, err
		}
		if s.manifests == nil {
			s.manifests = map[string]manifest{}
		}
		s.manifests[platform] = m
	}
	return m, s.world.Game, nil
}

// counted counts the bytes of a body.
type counted struct {
	http.ResponseWriter
	n int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	return n, err
}

func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// send sends content, or what a fault makes of it. Who hears of the end of the answer finds it among the requests.
func (s *Server) send(w http.ResponseWriter, r *http.Request, on, what string, names []string, content []byte) {
	c := &counted{ResponseWriter: w}
	one := Request{On: on, What: what, Range: r.Header.Get("Range")}
	f := s.fault(on, names...)
	if f != nil {
		one.Fault = f.Kind
	}
	all := int64(len(content))
	one.Bytes = all - offset(r, all)
	sent := s.note(one)
	defer func() { sent(c.n) }()
	in := io.ReadSeeker(bytes.NewReader(content))
	switch {
	case f != nil && f.Kind == "slow":
		in = &slow{in, f.Bytes}
	case f != nil:
		befall(c, r, *f, content)
		return
	}
	c.Header().Set("Accept-Ranges", "bytes")
	http.ServeContent(c, r, "", time.Time{}, in)
}

// slow gives so many bytes every 10 ms.
type slow struct {
	io.ReadSeeker
	bytes int64
}

func (s *slow) Read(b []byte) (int, error) {
	time.Sleep(10 * time.Millisecond)
	return s.ReadSeeker.Read(b[:min(int64(len(b)), max(s.bytes, 1))])
}

// offset is where the part begins that a request wants, 0 unless it wants all from there on.
func offset(r *http.Request, size int64) int64 {
	var first int64
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first); err != nil || first >= size {
		return 0
	}
	return first
}

// befall is an answer with a fault.
func befall(w http.ResponseWriter, r *http.Request, f Fault, content []byte) {
	all := int64(len(content))
	switch f.Kind {
	case "status":
		if f.Text != "" {
			w.Header().Set("Retry-After", f.Text)
		}
		w.WriteHeader(f.Code)
	case "html":
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		fmt.Fprint(w, "<!DOCTYPE html><html><head><title>Steam Community :: Error</title></head><body>An error was encountered</body></html>")
	case "garbage":
		fmt.Fprint(w, `{"response":`, strings.Repeat("[", 100_000))
	case "redirect":
		target := f.Text
		if target == "" {
			target = r.URL.Path
		}
		http.Redirect(w, r, target, http.StatusFound)
	case "no-ranges":
		w.Header().Set("Content-Length", strconv.FormatInt(all, 10))
		_, _ = w.Write(content)
	case "length": // the header lies, and what it promises never comes
		w.Header().Set("Content-Length", strconv.FormatInt(f.Bytes, 10))
		_, _ = w.Write(content[:min(f.Bytes, all)])
		panic(http.ErrAbortHandler)
	case "endless": // no length is told, and the body never ends
		for piece := made(r.URL.Path, 1<<16); ; {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	case "cut", "stall", "reset":
		first := offset(r, all)
		w.Header().Set("Accept-Ranges", "bytes")
		w.Header().Set("Content-Length", strconv.FormatInt(all-first, 10))
		if first > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, all-1, all))
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(content[first:min(first+f.Bytes, all)])
		control := http.NewResponseController(w)
		_ = control.Flush()
		if f.Kind == "stall" {
			<-r.Context().Done()
		}
		if f.Kind == "reset" {
			if conn, _, err := control.Hijack(); err == nil {
				// Closed at once, and what is on its way is thrown away: the peer sees a reset.
				if tcp, ok := conn.(*net.TCPConn); ok {
					_ = tcp.SetLinger(0)
				}
				conn.Close()
				return
			}
		}
		panic(http.ErrAbortHandler)
	}
}

// Client talks to a Server that runs elsewhere.
type Client struct{ Address string }

func (c Client) do(method, what string, body io.Reader, into any) error {
	req, err := http.NewRequest(method, c.Address+what, body)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return err
	case answer.StatusCode != http.StatusOK:
		return errors.New(answer.Status + ": " + strings.TrimSpace(string(text)))
	case into == nil:
		return nil
	}
	return json.Unmarshal(text, into)
}

// Set is Server.Set.
func (c Client) Set(w World) error {
	text, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return c.do(http.MethodPut, ownPath+"world", strings.NewReader(string(text)), nil)
}

// World is Server.World.
func (c Client) World() (w World, err error) {
	return w, c.do(http.MethodGet, ownPath+"world", nil, &w)
}

// Requests is Server.Requests.
func (c Client) Requests(forget bool) (r Requests, err error) {
	query := ""
	if forget {
		query = "?forget"
	}
	return r, c.do(http.MethodGet, ownPath+"requests"+query, nil, &r)
}

func (c Client) begin(program string, args []string) (o orders, err error) {
	text, err := json.Marshal(run{program, args})
	if err != nil {
		return o, err
	}
	return o, c.do(http.MethodPost, ownPath+"run", strings.NewReader(string(text)), &o)
}

func (c Client) manifest(platform string) (m manifest, err error) {
	return m, c.do(http.MethodGet, depotPath+platform, nil, &m)
}

// open begins to read a file of the game behind an offset.
func (c Client) open(platform, name string, offset int64) (io.ReadCloser, error) {
	req, err := http.NewRequest(http.MethodGet, c.Address+depotPath+platform+"/"+(&url.URL{Path: name}).EscapedPath(), nil)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode/100 != 2 {
		answer.Body.Close()
		return nil, errors.New(answer.Status)
	}
	return answer.Body, nil
}
