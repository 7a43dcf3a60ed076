package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"left4.me/left4/daemon/worker/order"
	"left4.me/left4/daemon/worker/status"
	"left4.me/left4/units"
)

const (
	gameApp     = 550     // Left 4 Dead 2, as items name what they are for
	maxItems    = 2000    // items of one order, with all that its collections hold
	maxDepth    = 10      // collections within each other
	maxDownload = 4 << 30 // bytes of one file: the game is a program of 32 bits
	maxParallel = 16      // downloads at a time
	maxFileName = 200     // bytes of a file's name: the item's id may have to go before it
	maxTitle    = 200     // bytes
	maxTime     = 1 << 40 // seconds since the epoch
	maxReason   = 500     // bytes
	partSuffix  = ".part" // behind the name of what is not complete
)

// workshop fetches what one order asks for. What cannot be had is told item by item; it fails as a whole where Steam does
// not say what there is, so that nothing is taken for gone that only could not be asked for.
type workshop struct {
	order   order.Workshop
	dir     int       // where the files go
	log     io.Writer // for people, in the journal
	note    func(text string)
	net     clients
	pause   time.Duration // before the second try; it doubles
	idle    time.Duration // without a byte until a download is tried again
	largest int64         // bytes of one file

	empty map[string]bool // collections that hold nothing

	mu       sync.Mutex // while several are fetched
	items    int        // to fetch
	got, all int64      // bytes of them
	bytes    int64      // fetched
	noted    time.Time
	result   order.WorkshopResult
}

func buildWorkshop(w *worker) (outcome, error) {
	shop := &workshop{log: w.stderr, note: w.note, pause: time.Second, idle: time.Minute, largest: maxDownload}
	if err := order.Read(w.stdin, &shop.order); err != nil {
		return outcome{}, usageError{fmt.Errorf("the order cannot be understood: %w", err)}
	}
	dir, err := unix.Open(".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return outcome{}, err
	}
	defer unix.Close(dir)
	shop.dir = dir
	// A cancel ends the process: what was fetched so far is taken up by the next one.
	return shop.run(context.Background())
}

func (s *workshop) run(ctx context.Context) (outcome, error) {
	// What an earlier one said must not be taken for what this one will.
	if err := unix.Unlinkat(s.dir, order.ResultName, 0); err != nil && err != unix.ENOENT {
		return outcome{}, fmt.Errorf("%s: %w", order.ResultName, err)
	}
	if err := s.check(); err != nil {
		return outcome{}, usageError{err}
	}
	var err error
	if s.net, err = newClients(s.order); err != nil {
		return outcome{}, usageError{err}
	}
	ids, err := s.collections(ctx)
	if err != nil {
		return outcome{}, err
	}
	wanted, err := s.details(ctx, ids)
	if err != nil {
		return outcome{}, err
	}
	if err := s.tidy(wanted); err != nil {
		return outcome{}, err
	}
	if err := s.fetchAll(ctx, wanted); err != nil {
		return outcome{}, err
	}
	missing := 0
	for _, item := range s.result.Items {
		if item.Missing != "" {
			missing++
			fmt.Fprintf(s.log, "not to be had: %s %q: %s\n", item.ID, item.Title, item.Missing)
		}
	}
	text, err := json.Marshal(s.result)
	if err != nil {
		return outcome{}, err
	}
	if _, err := units.WriteFileAtomic(s.dir, order.ResultName, text, 0o644, -1, -1); err != nil {
		return outcome{}, err
	}
	note := fmt.Sprintf("%d items, %d not to be had, asked %d times", len(s.result.Items), missing, s.result.Requests)
	fmt.Fprintf(s.log, "fetched %d files, %d bytes; %s\n", s.result.Fetched, s.bytes, note)
	return outcome{files: int64(s.result.Fetched), bytes: s.bytes, note: note}, nil
}

func (s *workshop) check() error {
	if len(s.order.Items) == 0 {
		return errors.New("the order has no items")
	}
	if n := len(s.order.Items) + len(s.order.Collections); n > maxItems {
		return fmt.Errorf("the order has %d items: at most %d are allowed", n, maxItems)
	}
	for _, id := range slices.Concat(s.order.Items, s.order.Collections) {
		if !isID(id) {
			return fmt.Errorf("%q is no id of an item", short(id))
		}
	}
	if s.order.Parallel < 1 || s.order.Parallel > maxParallel {
		return fmt.Errorf("%d downloads at a time are not allowed: use 1 to %d", s.order.Parallel, maxParallel)
	}
	return nil
}

// isID knows the decimal number that Steam gives an item.
func isID(text string) bool {
	n, err := strconv.ParseUint(text, 10, 64)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == text
}

// miss notes that an item is not to be had.
func (s *workshop) miss(item order.Item, format string, args ...any) {
	item.Missing = status.Line(fmt.Sprintf(format, args...), maxReason)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.result.Items {
		if s.result.Items[i].ID == item.ID {
			s.result.Items[i] = item
			return
		}
	}
	s.result.Items = append(s.result.Items, item)
}

// want is a file that must be fetched.
type want struct {
	order.Item
	from *url.URL
}

// details finds out what there is of each item, and returns what must be fetched.
func (s *workshop) details(ctx context.Context, ids []string) ([]want, error) {
	cached := map[order.File]bool{}
	for _, f := range s.order.Cached {
		cached[f] = true
	}
	var wanted []want
	asked := 0
	var failed error
	for batch := range slices.Chunk(ids, maxBatch) {
		s.step(-1, "asking for %d items", len(ids))
		all, err := s.askDetails(ctx, batch)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			failed = err
			for _, id := range batch {
				s.miss(order.Item{File: order.File{ID: id}}, "cannot ask Steam: %v", err)
			}
			continue
		}
		asked++
		for _, id := range batch {
			w, err := s.judge(id, all[id])
			switch {
			case err != nil:
				s.miss(w.Item, "%v", err)
			default:
				s.result.Items = append(s.result.Items, w.Item)
				if !cached[w.File] {
					wanted = append(wanted, w)
				}
			}
		}
	}
	if asked == 0 && failed != nil {
		return nil, fmt.Errorf("cannot ask Steam: %w", failed)
	}
	return wanted, nil
}

// judge tells what is to be fetched for an item, or why it is not to be had.
func (s *workshop) judge(id string, d *details) (want, error) {
	w := want{Item: order.Item{File: order.File{ID: id}}}
	if d == nil {
		return w, errors.New("the answer of Steam has nothing about it")
	}
	w.Title = status.Line(d.Title, maxTitle)
	w.Updated, w.Size = int64(d.Updated), int64(d.Size)
	switch {
	case d.bad != nil:
		return w, fmt.Errorf("what Steam says about it cannot be understood: %v", d.bad)
	case d.Result == 9: // k_EResultFileNotFound of Steamworks' EResult
		return w, errors.New("there is no such item: it was deleted, or is hidden")
	case d.Result == 15: // k_EResultAccessDenied
		return w, errors.New("it is hidden: access denied")
	case d.Result != 1: // k_EResultOK
		return w, fmt.Errorf("the answer of Steam is result %d", int64(d.Result))
	case bool(d.Banned):
		return w, errors.New("it is banned")
	case d.Visibility == 1 || d.Visibility == 2: // friends only, private; 3, unlisted, is for all who know its id
		return w, errors.New("it is hidden: not public")
	case s.empty[id] && d.URL == "":
		return w, errors.New("it is a collection that holds nothing")
	case d.App != gameApp:
		return w, fmt.Errorf("it is for app %d, not for Left 4 Dead 2, %d", int64(d.App), gameApp)
	case d.URL == "":
		return w, errors.New("there is no file of it: Steam tells no file_url")
	case d.Size <= 0:
		return w, errors.New("its file has no size: Steam tells no file_size")
	case int64(d.Size) > s.largest:
		return w, fmt.Errorf("its file has %d bytes, more than %d", int64(d.Size), s.largest)
	case d.Updated < 0 || d.Updated > maxTime:
		return w, fmt.Errorf("it was updated at %d, which is no time", int64(d.Updated))
	}
	var err error
	if w.Name, err = fileName(d.Name); err != nil {
		return w, fmt.Errorf("its file name %q is not allowed: %w", short(d.Name), err)
	}
	if w.from, err = s.net.check(d.URL); err != nil {
		return w, fmt.Errorf("its file lies at %q: %w", short(d.URL), err)
	}
	return w, nil
}

// fileName is the last part of a file's name as the game's tool for authors wrote it: most have "myl4d2addons/" before
// it. "" is not known.
func fileName(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	switch {
	case len(name) > maxPath:
		return "", fmt.Errorf("it has more than %d bytes", maxPath)
	case !utf8.ValidString(name):
		return "", errors.New("it is not UTF-8")
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", errors.New("it has control characters")
	case strings.Contains(name, `\`):
		return "", errors.New("it has a backslash")
	case name[0] == '/':
		return "", errors.New("it is absolute")
	}
	parts := strings.Split(name, "/")
	if slices.ContainsFunc(parts, func(part string) bool { return part == "" || part == "." || part == ".." }) {
		return "", errors.New("its path leads elsewhere")
	}
	base := strings.TrimSpace(parts[len(parts)-1])
	stem, ok := cutSuffixFold(base, ".vpk")
	switch {
	case !ok:
		return "", errors.New("it does not end in .vpk")
	case stem == "" || stem[0] == '.':
		return "", errors.New("it begins with a dot")
	case len(base) > maxFileName:
		return "", fmt.Errorf("it has more than %d bytes", maxFileName)
	}
	// The game looks for this spelling.
	return stem + ".vpk", nil
}

func cutSuffixFold(text, suffix string) (string, bool) {
	at := len(text) - len(suffix)
	if at < 0 || !strings.EqualFold(text[at:], suffix) {
		return text, false
	}
	return text[:at], true
}

// tidy removes what no item of today needs, so that what was begun and is not wanted any more does not stay for ever.
func (s *workshop) tidy(wanted []want) error {
	needed := map[string]bool{}
	for _, w := range wanted {
		needed[w.FileName()] = true
		needed[w.FileName()+partSuffix] = true
	}
	fd, err := units.OpenBeneath(s.dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !needed[name] {
			if err := units.RemoveTree(s.dir, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// fetchAll fetches several at a time.
func (s *workshop) fetchAll(ctx context.Context, wanted []want) error {
	needed := int64(0)
	for _, w := range wanted {
		s.all += w.Size
		needed += w.Size
		for _, name := range []string{w.FileName(), w.FileName() + partSuffix} {
			var st unix.Stat_t
			if unix.Fstatat(s.dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
				needed -= min(st.Size, w.Size)
			}
		}
	}
	s.items = len(wanted)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(s.dir, &fs); err != nil {
		return err
	}
	// Not to find out by filling it: servers write there, too.
	if room := max(free(fs), 0); needed > room {
		return fmt.Errorf("disk full: %d bytes are to be fetched, there is room for %d", needed, room)
	}
	queue := make(chan want)
	var fetchers sync.WaitGroup
	for range s.order.Parallel {
		fetchers.Add(1)
		go func() {
			defer fetchers.Done()
			for w := range queue {
				if err := s.fetch(ctx, w); err != nil && ctx.Err() == nil {
					s.miss(w.Item, "%v", err)
				}
			}
		}()
	}
	for _, w := range wanted {
		if ctx.Err() != nil {
			break
		}
		queue <- w
	}
	close(queue)
	fetchers.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return unix.Fsync(s.dir)
}

// step tells what it is at.
func (s *workshop) step(fraction float64, format string, args ...any) {
	s.note(status.Step(fraction, fmt.Sprintf(format, args...)))
}

// progress tells how much was fetched, now and then; with words, at once.
func (s *workshop) progress(bytes int64, words string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got += bytes
	if now := time.Now(); words != "" || now.Sub(s.noted) >= noteEvery {
		s.noted = now
		if words == "" {
			words = fmt.Sprintf("%d of %d files, %d of %d bytes", s.result.Fetched, s.items, s.got, s.all)
		}
		s.step(min(float64(s.got)/float64(s.all), 1), "%s", words)
	}
}
