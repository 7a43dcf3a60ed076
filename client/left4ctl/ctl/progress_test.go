package ctl

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"left4.me/left4/client"
)

// screen is as much of a terminal as the board needs: what it does not know it fails on.
type screen struct {
	t             *testing.T
	width, height int
	past          []string // what has left at the top
	rows          [][]rune
	x, y          int
}

func newScreen(t *testing.T, width, height int) *screen {
	return &screen{t: t, width: width, height: height, rows: make([][]rune, 1)}
}

func (s *screen) Write(p []byte) (int, error) {
	text := string(p)
	for text != "" {
		switch {
		case text[0] == '\r':
			s.x, text = 0, text[1:]
		case text[0] == '\n': // as the kernel prints it, with a return before it
			s.x, text = 0, text[1:]
			s.down()
		case text[0] == '\x1b':
			var n int
			var final rune
			if _, err := fmt.Sscanf(text, "\x1b[%d%c", &n, &final); err != nil {
				if _, err := fmt.Sscanf(text, "\x1b[%c", &final); err != nil {
					s.t.Fatalf("no sequence: %q", text)
				}
			}
			switch final {
			case 'A':
				s.y = max(0, s.y-n)
			case 'K':
				s.row(s.y, s.x)
				s.rows[s.y] = s.rows[s.y][:s.x]
			case 'J':
				s.row(s.y, s.x)
				s.rows[s.y] = s.rows[s.y][:s.x]
				s.rows = s.rows[:s.y+1]
			default:
				s.t.Fatalf("unknown sequence: %q", text)
			}
			text = text[strings.IndexRune(text, final)+1:]
		default:
			r, n := utf8.DecodeRuneInString(text)
			if s.x == s.width {
				s.x = 0
				s.down()
			}
			s.row(s.y, s.x+1)
			s.rows[s.y][s.x] = r
			s.x, text = s.x+1, text[n:]
		}
	}
	return len(p), nil
}

// row makes a row at least so long.
func (s *screen) row(y, length int) {
	for len(s.rows) <= y {
		s.rows = append(s.rows, nil)
	}
	for len(s.rows[y]) < length {
		s.rows[y] = append(s.rows[y], ' ')
	}
}

func (s *screen) down() {
	s.y++
	s.row(s.y, 0)
	s.fit()
}

func (s *screen) fit() {
	for len(s.rows) > s.height {
		s.past = append(s.past, string(s.rows[0]))
		s.rows, s.y = s.rows[1:], max(0, s.y-1)
	}
}

// resize is what a terminal does that breaks no lines anew.
func (s *screen) resize(width, height int) {
	s.width, s.height = width, height
	s.x = min(s.x, width)
	for y := range s.rows {
		s.rows[y] = s.rows[y][:min(len(s.rows[y]), width)]
	}
	s.fit()
}

func (s *screen) lines() []string {
	lines := slices.Clone(s.past)
	for _, r := range s.rows {
		lines = append(lines, strings.TrimRight(string(r), " "))
	}
	return lines
}

// onScreen is an invocation whose standard error is a screen, at a moment that tests set.
func onScreen(t *testing.T, s *screen) (*invocation, *time.Time) {
	v := newInvocation(t.Context(), "", nil, nil, s)
	now := time.Unix(1000, 0)
	v.live, v.now = true, func() time.Time { return now }
	v.board.size = func() (int, int) { return s.width, s.height }
	// The test draws when it wants to see a frame.
	v.board.wake, v.board.quit = make(chan struct{}, 1), make(chan struct{})
	return v, &now
}

func expectScreen(t *testing.T, s *screen, want ...string) {
	t.Helper()
	if got := s.lines(); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestJobsOnATerminal(t *testing.T) {
	s := newScreen(t, 72, 5)
	v, now := onScreen(t, s)
	one, two := v.steps("versus-1"), v.steps("b")
	*now = now.Add(3 * time.Second)
	one.show(client.JobInfo{JobSummary: client.JobSummary{Kind: "start", State: client.JobQueued}, Progress: -1})
	v.board.draw()
	expectScreen(t, s, "versus-1:  0:03 queued")

	// One that begins stands above one that waits, and bars stand below each other.
	two.show(client.JobInfo{
		JobSummary: client.JobSummary{Kind: "import-overlay", State: client.JobRunning},
		Progress:   0.5, Status: "unpacking: \x1b[2J12 files", Started: now.Add(-65 * time.Second),
	})
	v.board.draw()
	expectScreen(t, s,
		"b:        [###########............]  50%  1:05 unpacking: \\x1b[2J12 fi…",
		"versus-1:                                 0:03 queued")

	// What is said goes above, and stays when all has ended.
	v.say("hello")
	expectScreen(t, s, "hello", "")
	v.board.draw()
	if got := s.lines(); got[0] != "hello" || len(got) != 3 {
		t.Errorf("%q", got)
	}
	two.finish()
	v.say("b: imported")
	v.board.draw()
	expectScreen(t, s, "hello", "b: imported", "versus-1:  0:03 queued")
	one.finish()
	v.say("versus-1: started")
	expectScreen(t, s, "hello", "b: imported", "versus-1: started", "")
}

func TestMoreJobsThanATerminalHasLines(t *testing.T) {
	s := newScreen(t, 40, 5)
	v, _ := onScreen(t, s)
	for n := range 50 {
		state := client.JobQueued
		if n >= 45 {
			state = client.JobRunning
		}
		v.steps(fmt.Sprintf("versus-%02d", n)).show(client.JobInfo{JobSummary: client.JobSummary{Kind: "start", State: state}, Progress: -1})
	}
	for range 3 {
		v.board.draw()
		expectScreen(t, s,
			"versus-45:  0:00 running", "versus-46:  0:00 running", "versus-47:  0:00 running",
			"and 47 more (2 running, 45 queued)")
	}
	s.resize(9, 3)
	v.board.draw()
	if got := s.lines()[len(s.past):]; !slices.Equal(got, []string{"v…:  0:…", "and 49 …"}) {
		t.Errorf("%q", got)
	}
	for _, size := range [][2]int{{1, 1}, {2, 1}, {1, 2}, {0, 0}} {
		if lines := v.board.lines(size[0], size[1]); len(lines) > max(size[1]-1, 1) {
			t.Errorf("%v: %q", size, lines)
		}
	}
}

// Whatever happens in whatever order: what was said stays, in its order and whole, and below it is the board.
func TestBoardLeavesNoGarbage(t *testing.T) {
	for seed := range int64(20) {
		r := rand.New(rand.NewSource(seed))
		s := newScreen(t, 20+r.Intn(80), 2+r.Intn(30))
		v, now := onScreen(t, s)
		var jobs []*steps
		var said []string
		resized := false
		for range 300 {
			*now = now.Add(time.Duration(r.Intn(2000)) * time.Millisecond)
			switch n := r.Intn(10); {
			case n < 2 && len(jobs) < 50:
				jobs = append(jobs, v.steps(fmt.Sprintf("job-%d", r.Intn(1000))))
			case n < 3 && len(jobs) > 0:
				at := r.Intn(len(jobs))
				jobs[at].finish()
				jobs = slices.Delete(jobs, at, at+1)
				said = append(said, fmt.Sprintf("said %d", len(said)))
				v.say("%s", said[len(said)-1])
				if v.board.quit == nil {
					v.board.quit = make(chan struct{})
				}
			case n < 4 && seed%2 == 0:
				s.resize(20+r.Intn(80), 2+r.Intn(30))
				resized = true
			case n < 8 && len(jobs) > 0:
				state := []string{client.JobQueued, client.JobRunning}[r.Intn(2)]
				jobs[r.Intn(len(jobs))].show(client.JobInfo{
					JobSummary: client.JobSummary{State: state}, Progress: r.Float64()*2 - 1, Status: strings.Repeat("漢x", r.Intn(40)),
				})
			}
			if len(v.board.jobs) > 0 {
				v.board.draw()
				if !resized && v.board.drawn != len(v.board.lines(s.width, s.height)) {
					t.Fatalf("seed %d: %d lines drawn", seed, v.board.drawn)
				}
			}
		}
		for _, j := range jobs {
			j.finish()
			if v.board.quit == nil {
				v.board.quit = make(chan struct{})
			}
		}
		var left []string
		for _, line := range s.lines() {
			if strings.HasPrefix(line, "said ") {
				left = append(left, line)
			} else if line != "" && !resized {
				t.Fatalf("seed %d: garbage %q", seed, line)
			}
		}
		if !slices.Equal(left, said) {
			t.Fatalf("seed %d: said %q, left %q", seed, said, left)
		}
	}
}

// The real drawing: many jobs that change at once, and an end that leaves nothing behind.
func TestBoardDrawsByItself(t *testing.T) {
	s := newScreen(t, 80, 10)
	v := newInvocation(t.Context(), "", nil, nil, s)
	v.live = true
	v.board.size = func() (int, int) { return s.width, s.height }
	ends := make(chan bool)
	for n := range 50 {
		go func() {
			steps := v.steps(fmt.Sprintf("a-%d", n))
			for p := range 100 {
				steps.show(client.JobInfo{JobSummary: client.JobSummary{State: client.JobRunning}, Progress: float64(p) / 100, Status: "x"})
			}
			steps.finish()
			v.say("a-%d: started", n)
			ends <- true
		}()
	}
	for range 50 {
		<-ends
	}
	lines := s.lines()
	if len(lines) != 51 || lines[50] != "" {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
	for _, line := range lines[:50] {
		if !strings.HasSuffix(line, ": started") {
			t.Errorf("%q", line)
		}
	}
}

func TestWithoutATerminalEachStepIsALine(t *testing.T) {
	var out strings.Builder
	v := newInvocation(t.Context(), "", nil, nil, &out)
	s := v.steps("game.tar")
	for _, i := range []client.JobInfo{
		{Status: "reading", Progress: -1}, {Status: "1 file\x1b[2J", Progress: 0.5}, {Status: "2 file\x1b[2J", Progress: 0.51}, {Status: "3 files", Progress: 0.99},
	} {
		i.Kind, i.State = "import-game", client.JobRunning
		s.show(i)
	}
	s.finish()
	want := "game.tar: reading\ngame.tar:  50% 1 file\\x1b[2J\ngame.tar:  99% 3 files\n"
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
}

func TestClock(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Hour: "0:00", 0: "0:00", 59*time.Second + 999*time.Millisecond: "0:59", time.Hour: "1:00:00", 3661 * time.Second: "1:01:01"} {
		if got := clock(d); got != want {
			t.Errorf("%v: %s, not %s", d, got, want)
		}
	}
}
