// left4-report makes of the rows that tests have added a table for people and one for programs.
//
//	left4-report [-table TABLE] [-doc FILE.md] ROWS OUT.json
//
// With -table it takes only the rows of that one. With -doc it also replaces what stands in that file between the lines "<!-- TABLE -->" and "<!-- end of TABLE -->",
// where TABLE is what the rows name.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"left4.me/left4/test/report"
)

func main() {
	doc := flag.String("doc", "", "a document to put the table into")
	table := flag.String("table", "", "the table whose rows are taken, all if it is empty")
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(flag.Arg(0), flag.Arg(1), *table, *doc); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(rows, out, table, doc string) error {
	f, err := os.Open(rows)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := report.Read(f)
	if err != nil {
		return err
	}
	r.Rows = slices.DeleteFunc(r.Rows, func(row report.Row) bool { return table != "" && row.Table != table })
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(out, append(text, '\n'), 0o644); err != nil {
		return err
	}
	if doc != "" {
		if err := replace(doc, r); err != nil {
			return err
		}
	}
	return r.WriteText(os.Stdout)
}

func replace(doc string, r report.Report) error {
	text, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	if len(r.Rows) == 0 {
		return fmt.Errorf("cannot replace a table of %s: there are no rows", doc)
	}
	begin, end := "<!-- "+r.Rows[0].Table+" -->\n", "<!-- end of "+r.Rows[0].Table+" -->\n"
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("cannot replace a table of %s: it has no lines %q and %q", doc, begin, end)
	}
	var table strings.Builder
	if err := r.WriteMarkdown(&table); err != nil {
		return err
	}
	return os.WriteFile(doc, []byte(before+begin+table.String()+end+after), 0o644)
}
