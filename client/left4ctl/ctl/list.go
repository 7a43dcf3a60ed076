package ctl

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

// column is one column of list.
type column struct {
	name    string // in --columns and --sort; the heading is the same in capitals
	show    func(client.Instance) string
	compare func(a, b client.Instance) int // nil compares what is shown
}

var columnsOfList = []column{
	{name: "name", show: func(i client.Instance) string { return i.Name }},
	{name: "state", show: func(i client.Instance) string { return i.State }},
	{name: "desired", show: func(i client.Instance) string { return i.DesiredState }},
	{
		name: "port", show: func(i client.Instance) string { return strconv.Itoa(int(i.Port)) },
		compare: func(a, b client.Instance) int { return cmp.Compare(a.Port, b.Port) },
	},
	{name: "blueprint", show: func(i client.Instance) string { return i.Blueprint }},
	{name: "label", show: func(i client.Instance) string { return i.Label }},
	{name: "cause", show: func(i client.Instance) string { return i.Cause }},
	{name: "owner", show: func(i client.Instance) string { return userName(i.OwnerName, i.Owner) }},
	{
		name: "pid", show: func(i client.Instance) string { return dashed(uint64(i.MainPID)) },
		compare: func(a, b client.Instance) int { return cmp.Compare(a.MainPID, b.MainPID) },
	},
	{
		name: "since", show: func(i client.Instance) string { return when(i.StateSince) },
		compare: func(a, b client.Instance) int { return a.StateSince.Compare(b.StateSince) },
	},
	{
		name: "restarts", show: func(i client.Instance) string { return strconv.FormatUint(uint64(i.Restarts), 10) },
		compare: func(a, b client.Instance) int { return cmp.Compare(a.Restarts, b.Restarts) },
	},
	{name: "drifted", show: func(i client.Instance) string { return yes(i.Drifted) }},
	{name: "pending", show: func(i client.Instance) string {
		if i.PendingRestart {
			return orElse(i.PendingCause, "yes")
		}
		return ""
	}},
	{name: "unit", show: func(i client.Instance) string { return i.Unit }},
	{name: "overlays", show: func(i client.Instance) string { return shownOverlays(i.Overlays) }},
	{name: "limits", show: func(i client.Instance) string { return assigned(shownLimits(i.Limits)) }},
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// dashed is a number, or nothing for 0.
func dashed(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func columnNames() []string {
	var all []string
	for _, c := range columnsOfList {
		all = append(all, c.name)
	}
	return all
}

func findColumn(flag, name string) (column, error) {
	for _, c := range columnsOfList {
		if c.name == name {
			return c, nil
		}
	}
	all := columnNames()
	e := &usageError{text: fmt.Sprintf("--%s: there is no column %q", flag, name), hint: "the columns are " + strings.Join(all, ", ")}
	if near := nearest(name, all); near != "" {
		e.hint = "did you mean " + near + "?"
	}
	return column{}, e
}

// filters are what list shows of all instances.
type filters struct {
	states    []string
	blueprint string
	owner     string
	drifted   bool
	pending   bool
	columns   []string
	sort      string
}

func listFlags(v *invocation, fs *pflag.FlagSet) {
	f := &v.filters
	fs.StringSliceVar(&f.states, "state", nil, "only instances in these `STATE`s, parted by commas")
	fs.StringVar(&f.blueprint, "blueprint", "", "only instances that follow blueprint `NAME`, or none if it is empty")
	fs.StringVar(&f.owner, "owner", "", "only instances of `USER`, a name or uid")
	fs.BoolVar(&f.drifted, "drifted", false, "only instances that are not in the state they should be in")
	fs.BoolVar(&f.pending, "pending", false, "only instances that a restart would give something new")
	fs.StringSliceVar(&f.columns, "columns", nil, "show these `COLUMN`s, parted by commas:\n"+listed(columnNames(), 8))
	fs.StringVar(&f.sort, "sort", "", "sort by `COLUMN`, and - before it for the other way round")
	tableFlags(v, fs)
}

// listed is a list of words for help, so many on a line.
func listed(words []string, perLine int) string {
	var b strings.Builder
	for n, w := range words {
		switch {
		case n == 0:
		case n%perLine == 0:
			b.WriteString(",\n")
		default:
			b.WriteString(", ")
		}
		b.WriteString(w)
	}
	return b.String()
}

// keeps tells whether an instance is to be listed.
func (f *filters) keeps(v *invocation, i client.Instance) bool {
	return (len(f.states) == 0 || slices.Contains(f.states, i.State)) &&
		(!v.flags.Changed("blueprint") || i.Blueprint == f.blueprint) &&
		(f.owner == "" || f.owner == i.OwnerName || f.owner == strconv.FormatUint(uint64(i.Owner), 10)) &&
		(!f.drifted || i.Drifted) && (!f.pending || i.PendingRestart) && matchAny(v.args, i.Name)
}

// check complains of what no instance can have.
func (f *filters) check() error {
	for _, state := range f.states {
		if !slices.Contains(states, state) {
			return &usageError{text: fmt.Sprintf("--state: there is no state %q", state), hint: "the states are " + strings.Join(states, ", ")}
		}
	}
	return nil
}

func runList(v *invocation) error {
	f := &v.filters
	if err := firstOf(f.check(), checkPatterns(v.args)); err != nil {
		return err
	}
	var shown []column
	for _, name := range f.columns {
		c, err := findColumn("columns", name)
		if err != nil {
			return err
		}
		shown = append(shown, c)
	}
	order := func(a, b client.Instance) int { return 0 } // they come by name
	if f.sort != "" {
		by, reversed := strings.CutPrefix(f.sort, "-")
		c, err := findColumn("sort", by)
		if err != nil {
			return err
		}
		order = c.order(reversed)
	}
	ask := inspect
	if f.brief(v) {
		ask = summaries
	}
	answers, result := askHosts(v, "list the instances", "", ask)
	if len(answers) == 0 {
		return result
	}
	var list []hosted
	for _, a := range answers {
		for _, i := range a.value.Instances {
			if f.keeps(v, i) {
				list = append(list, hosted{i, a.host, jobOf(i.Name, a.value.Jobs)})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b hosted) int { return order(a.Instance, b.Instance) })
	if v.json {
		all := make([]instanceJSON, 0, len(list))
		for _, i := range list {
			all = append(all, asJSON(i))
		}
		return firstOf(printJSON(v.stdout, all), result)
	}
	v.listInstances(list, shown)
	return result
}

func inspect(ctx context.Context, c *client.Client) (client.Host, error) { return c.Inspect(ctx) }

// summaryColumns come first in columnsOfList; ListInstances tells them, which is a tenth of all that there is to know.
const summaryColumns = 7

// summaries is inspect for those columns.
func summaries(ctx context.Context, c *client.Client) (client.Host, error) {
	list, err := c.ListInstances(ctx)
	h := client.Host{Instances: make([]client.Instance, len(list))}
	for n, i := range list {
		h.Instances[n].InstanceSummary = i
	}
	return h, err
}

// brief tells whether summaries are enough; colours and JSON tell more.
func (f *filters) brief(v *invocation) bool {
	if v.json || v.colors || f.owner != "" || f.drifted || f.pending {
		return false
	}
	for _, name := range append(slices.Clone(f.columns), strings.TrimPrefix(f.sort, "-")) {
		at := slices.Index(columnNames(), name)
		if name != "" && at >= summaryColumns {
			return false
		}
	}
	return true
}

func (c column) order(reversed bool) func(a, b client.Instance) int {
	compare := c.compare
	if compare == nil {
		compare = func(a, b client.Instance) int { return strings.Compare(c.show(a), c.show(b)) }
	}
	if reversed {
		return func(a, b client.Instance) int { return compare(b, a) }
	}
	return compare
}

// listInstances prints the table. On a terminal a dot stands before each name; what reads a pipe finds the name first.
func (v *invocation) listInstances(list []hosted, shown []column) {
	if shown == nil {
		bound := slices.ContainsFunc(list, func(i hosted) bool { return i.Blueprint != "" })
		for _, c := range columnsOfList[:summaryColumns] {
			if c.name != "blueprint" || bound {
				shown = append(shown, c)
			}
		}
	}
	var headings []string
	for _, c := range shown {
		headings = append(headings, strings.ToUpper(c.name))
	}
	var rows [][]string
	var hosts []string
	for _, i := range list {
		var row []string
		for _, c := range shown {
			row = append(row, c.show(i.Instance))
		}
		rows, hosts = append(rows, row), append(hosts, i.host)
	}
	if v.tty {
		headings[0] = "  " + headings[0]
		for n, i := range list {
			mark, _ := dot(i.Instance)
			rows[n][0] = mark + " " + orDash(rows[n][0])
		}
	}
	paint := func(row, column int) string {
		if column > 0 && shown[column].name != "state" {
			return ""
		}
		_, color := dot(list[row].Instance)
		return color
	}
	headings, rows, paint = v.withHosts(hosts, headings, rows, paint)
	v.paintedTable(headings, rows, "instance", paint)
}
