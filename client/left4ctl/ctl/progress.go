package ctl

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"left4.me/left4/client"
)

// What jobs are at is shown while they are waited for. On a terminal each job that has not ended has a line at the bottom,
// which is drawn again when something changes, and each second for its clock; what is said meanwhile goes above. Elsewhere
// each new step is a line. What is known of the terminal is its size at the moment of drawing: no more lines than it has,
// and none that it would break.

// steps tells what one job is at.
type steps struct {
	v      *invocation
	name   string
	number int    // in the order that jobs were asked for
	last   string // key of what was told last, where there is no board
	begun  time.Time
	info   client.JobInfo
}

func (v *invocation) steps(name string) *steps {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.board.last++
	return &steps{v: v, name: name, number: v.board.last, begun: v.now()}
}

func (s *steps) show(i client.JobInfo) {
	if s.v.quiet || i.Ended() {
		return
	}
	if s.v.live {
		s.v.board.show(s, i)
		return
	}
	if i.Status == "" {
		return
	}
	// An import counts files twice a second: a new line is worth a tenth of the way, or another kind of step.
	key := i.Status
	if long(i.Kind) {
		key = fmt.Sprint(int(i.Progress*10), strings.Map(dropDigits, i.Status))
	}
	if key == s.last {
		return
	}
	s.last = key
	if long(i.Kind) && i.Progress >= 0 {
		s.v.say("%s: %3.0f%% %s", s.name, i.Progress*100, i.Status)
	} else {
		s.v.say("%s: %s", s.name, i.Status)
	}
}

// finish is called when nobody waits for the job any more, before its end is told.
func (s *steps) finish() { s.v.board.remove(s) }

// long tells the jobs that count what they have done.
func long(kind string) bool {
	return strings.HasPrefix(kind, "import-") || strings.HasPrefix(kind, "build-") || strings.HasPrefix(kind, "install-") || kind == "initialize" // it may copy
}

func dropDigits(r rune) rune {
	if r >= '0' && r <= '9' || r == '.' {
		return -1
	}
	return r
}

// wantsBoard tells whether the cursor of standard error can be moved.
func wantsBoard(terminal bool, getenv func(string) string) bool {
	return terminal && !dumb(getenv("TERM"))
}

// dumb terminals know no escape sequences. One that does not say what it is is taken for one of them, as by systemd.
func dumb(term string) bool { return term == "" || term == "dumb" }

// frameTime is the least time between two frames: as many as one can see.
const frameTime = 50 * time.Millisecond

// board is the lines at the bottom of a terminal. All of it is guarded by invocation.mu.
type board struct {
	v     *invocation
	size  func() (width, height int)
	jobs  []*steps
	last  int // number that was given out
	drawn int // lines that are on the terminal now
	wake  chan struct{}
	quit  chan struct{}
	ended chan struct{} // closed when what quit ends has ended
}

func (b *board) show(s *steps, i client.JobInfo) {
	b.v.mu.Lock()
	defer b.v.mu.Unlock()
	s.info = i
	if !slices.Contains(b.jobs, s) {
		b.jobs = append(b.jobs, s)
	}
	if b.quit == nil {
		b.wake, b.quit, b.ended = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
		go b.run(b.wake, b.quit, b.ended)
	}
	b.changed()
}

func (b *board) remove(s *steps) {
	b.v.mu.Lock()
	n := slices.Index(b.jobs, s)
	if n < 0 {
		b.v.mu.Unlock()
		return
	}
	b.jobs = slices.Delete(b.jobs, n, n+1)
	var ended chan struct{}
	if len(b.jobs) == 0 {
		ended = b.ended // another may begin as soon as the lock is free
		b.erase()
		close(b.quit)
		b.quit = nil
	} else {
		b.changed()
	}
	b.v.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// changed asks for another frame. Called with mu held.
func (b *board) changed() {
	if b.quit == nil {
		return
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// run draws until the last job is gone.
func (b *board) run(wake, quit, ended chan struct{}) {
	defer close(ended)
	clock := time.NewTicker(time.Second)
	defer clock.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-wake:
		case <-clock.C:
		case <-quit:
			return
		}
		b.v.mu.Lock()
		if b.quit == quit {
			b.draw()
		}
		b.v.mu.Unlock()
		rest.Reset(frameTime)
		select {
		case <-rest.C:
		case <-quit:
			return
		}
	}
}

// line prints a line above the board. Called with mu held.
func (b *board) line(w io.Writer, text string) {
	b.erase()
	fmt.Fprintln(w, text)
	b.changed()
}

// erase takes the board off the terminal. Called with mu held.
func (b *board) erase() {
	if b.drawn > 0 {
		io.WriteString(b.v.stderr, b.home()+"\x1b[J")
		b.drawn = 0
	}
}

// home puts the cursor where the board begins (ECMA-48: CUU; ED and EL erase).
func (b *board) home() string {
	if b.drawn > 1 {
		return fmt.Sprintf("\r\x1b[%dA", b.drawn-1)
	}
	return "\r"
}

// draw draws a frame over the last one, in one write. Called with mu held.
func (b *board) draw() {
	width, height := b.size()
	lines := b.lines(width, height)
	var out strings.Builder
	out.WriteString(b.home())
	for n, line := range lines {
		if n > 0 {
			out.WriteString("\r\n")
		}
		out.WriteString(line + "\x1b[K")
	}
	if len(lines) < b.drawn {
		out.WriteString("\x1b[J")
	}
	b.drawn = len(lines)
	io.WriteString(b.v.stderr, out.String())
}

// lines are what the board shows: one for each job, and one for those that do not fit.
func (b *board) lines(width, height int) []string {
	width, height = max(width-1, 1), max(height-1, 1) // the last column would move some cursors, the last line all
	jobs := slices.Clone(b.jobs)
	// What is at work comes first, so that it is not what is left out.
	slices.SortFunc(jobs, func(a, b *steps) int { return cmp.Or(order(a.info)-order(b.info), a.number-b.number) })
	var rest []*steps
	if len(jobs) > height {
		jobs, rest = jobs[:height-1], jobs[height-1:]
	}
	names, bars := 0, false
	for _, s := range jobs {
		names = max(names, columns(clean(s.name)))
		bars = bars || s.info.Progress >= 0
	}
	names = min(names, width/3)
	var lines []string
	for _, s := range jobs {
		lines = append(lines, cut(s.line(b.v.now(), names, width, bars), width))
	}
	if len(rest) > 0 {
		counts := map[string]int{}
		for _, s := range rest {
			counts[s.info.State]++
		}
		more := counted(len(rest), []string{client.JobRunning, client.JobQueued}, counts)
		lines = append(lines, cut(strings.Replace("and "+more, " (", " more (", 1), width))
	}
	return lines
}

func order(i client.JobInfo) int {
	if i.State == client.JobQueued {
		return 1
	}
	return 0
}

// maxBar is how many characters stand for the whole way, where there is room.
const maxBar = 30

// line is a job in one line: its name, how far it is, how long it takes, and its step.
func (s *steps) line(now time.Time, names, width int, bars bool) string {
	name := cut(clean(s.name), names)
	text := name + ":" + strings.Repeat(" ", names-columns(name)+1)
	if size := min(maxBar, width/3); bars && size >= 5 {
		if p := min(s.info.Progress, 1); p >= 0 {
			full := int(p * float64(size))
			text += fmt.Sprintf("[%s%s] %3.0f%% ", strings.Repeat("#", full), strings.Repeat(".", size-full), p*100)
		} else {
			text += strings.Repeat(" ", size+len("[] 100% "))
		}
	}
	begun := s.begun
	for _, t := range []time.Time{s.info.Created, s.info.Started} {
		if !t.IsZero() {
			begun = t
		}
	}
	step := s.info.Status
	if step == "" {
		step = s.info.State
	}
	return text + fmt.Sprintf("%5s ", clock(now.Sub(begun))) + clean(step)
}

// clock prints a span of time as a stop watch does.
func clock(d time.Duration) string {
	seconds := max(int(d/time.Second), 0) // another machine may have another time
	if seconds < 3600 {
		return fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", seconds/3600, seconds/60%60, seconds%60)
}

// terminalSize is the size of a terminal now, or the usual one.
func terminalSize(stream any) (width, height int) {
	if f, ok := stream.(*os.File); ok {
		if width, height, err := term.GetSize(int(f.Fd())); err == nil && width > 0 && height > 0 {
			return width, height
		}
	}
	return 80, 24
}
