// Package measured is what the two halves of the benchmark tell each other: bench, which boots the machine, and inside,
// which measures in it.
package measured

import "left4.me/left4/test/report"

// Options say how much is measured.
type Options struct {
	Loaded  []int // so many instances run, one after the other; ascending
	Rounds  int   // of starts, at each of them; half as many where many run
	Again   int   // of what takes long: systemctl enable, a restart of left4d, many starts at once
	Calls   int   // that are timed one by one, of each kind
	Many    int   // starts at once
	Rest    int   // with so many running, left4d is restarted, weighed and left alone
	Flood   int   // calls before it is weighed again
	Idle    int   // seconds that it is left alone
	Flap    int   // instances that crash again and again
	Flaps   int   // seconds of that
	Layers  []int // of a mount
	Changed int   // instances that are restarted with other arguments
	Listed  int   // with so many running, left4ctl list is compared with systemctl
}

// Full is what make bench measures, Short what make test looks at.
var (
	Full = Options{
		Loaded: []int{1, 20, 60}, Rounds: 12, Again: 3, Calls: 2000, Many: 40, Rest: 60, Flood: 100_000, Idle: 30,
		Flap: 30, Flaps: 15, Layers: []int{1, 10, 200}, Changed: 50, Listed: 60,
	}
	Short = Options{
		Loaded: []int{1, 4}, Rounds: 2, Again: 1, Calls: 50, Many: 4, Rest: 4, Flood: 500, Idle: 1,
		Flap: 3, Flaps: 5, Layers: []int{1, 10}, Changed: 3, Listed: 4,
	}
)

// Result is what comes of it.
type Result struct {
	Rows   []report.Row
	Curves []Curve
}

// Curve is how something grows with the number of instances that run.
type Curve struct {
	Plot, Name string
	X          []int
	Y          []float64
}
