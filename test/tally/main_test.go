package main

import (
	"strings"
	"testing"
)

func TestTally(t *testing.T) {
	for _, test := range []struct {
		name, in, out  string
		passed, failed int
	}{
		{
			name: "a test with subtests counts as its subtests",
			in: `
{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/one"}
{"Action":"run","Package":"p","Test":"A/two/half"}
{"Action":"pass","Package":"p","Test":"A/one","Elapsed":0.1}
{"Action":"pass","Package":"p","Test":"A/two/half","Elapsed":1.26}
{"Action":"pass","Package":"p","Test":"A","Elapsed":1.3}
{"Action":"pass","Package":"p","Elapsed":2}
`,
			out:    "         1.3s A/two/half\nok       2.0s p\n",
			passed: 2,
		},
		{
			name: "the table of a test is shown",
			in: `
{"Action":"output","Package":"p","Test":"A","Output":"    a_test.go:7: all\n"}
{"Action":"output","Package":"p","Test":"A","Output":"        | jobs   7\n"}
{"Action":"output","Package":"p","Test":"A","Output":"        | wrong  0\n"}
{"Action":"pass","Package":"p","Test":"A","Elapsed":1}
{"Action":"pass","Package":"p","Elapsed":1}
`,
			out:    "         1.0s A\n              | jobs   7\n              | wrong  0\nok       1.0s p\n",
			passed: 1,
		},
		{
			name: "a failed subtest is one failure",
			in: `
{"Action":"output","Package":"p","Test":"A/x/y","Output":"=== RUN   A/x/y\n"}
{"Action":"output","Package":"p","Test":"A/x/y","Output":"    a_test.go:7: no\n"}
{"Action":"fail","Package":"p","Test":"A/x/y","Elapsed":0}
{"Action":"fail","Package":"p","Test":"A","Elapsed":0}
{"Action":"pass","Package":"p","Test":"B","Elapsed":0}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"fail","Package":"p","Elapsed":0}
`,
			out:    "FAIL     0.0s p/A/x/y\n    a_test.go:7: no\nFAIL     0.0s p\nFAIL\n",
			passed: 1, failed: 1,
		},
		{
			name: "a package that does not compile is a failure",
			in: `
{"ImportPath":"p [p.test]","Action":"build-output","Output":"a.go:1: undefined: x\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"fail","Package":"p","Elapsed":0,"FailedBuild":"p [p.test]"}
`,
			out:    "a.go:1: undefined: x\nFAIL     0.0s p\n",
			failed: 1,
		},
		{
			name: "a skipped test says why; a package without tests says nothing",
			in: `
{"Action":"output","Package":"p","Test":"A","Output":"    a_test.go:9: needs root\n"}
{"Action":"output","Package":"p","Test":"A","Output":"--- SKIP: A (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"A","Elapsed":0}
{"Action":"skip","Package":"q","Elapsed":0}
`,
			out: "skip          A: a_test.go:9: needs root\n",
		},
		{
			name: "what is no event is shown as it is",
			in:   "go: no such module\n",
			out:  "go: no such module\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			c := &tally{out: &out, nodes: map[string]*node{}}
			if err := c.read(strings.NewReader(strings.TrimLeft(test.in, "\n"))); err != nil {
				t.Fatal(err)
			}
			if out.String() != test.out {
				t.Errorf("shows\n%s\nwant\n%s", out.String(), test.out)
			}
			if c.passed != test.passed || c.failed != test.failed {
				t.Errorf("counts %d passed, %d failed, want %d, %d", c.passed, c.failed, test.passed, test.failed)
			}
		})
	}
}
