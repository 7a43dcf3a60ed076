package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"left4.me/left4/dbus/doc"
)

func text(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func read(t *testing.T) source {
	t.Helper()
	m := source{interfaces: map[string]doc.Interface{}}
	if err := m.read(); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestThePageIsWhatItIsMadeOf(t *testing.T) {
	want, err := manual()
	if err != nil {
		t.Fatal(err)
	}
	if got := []byte(text(t, page)); !bytes.Equal(got, want) {
		a, b := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
		n := 0
		for n < min(len(a), len(b))-1 && a[n] == b[n] {
			n++
		}
		t.Errorf("packaging/man/me.left4.5 is not what XML, polkit actions and template make; line %d\n"+
			"  is      %s\n  must be %s\nrun: go generate ./packaging/manual", n+1, a[n], b[n])
	}
}

// commands are the command lines of the examples, each in one line.
func commands(t *testing.T) []string {
	t.Helper()
	_, examples, found := strings.Cut(text(t, page), "\n.Sh EXAMPLES\n")
	if !found {
		t.Fatal("the page has no examples")
	}
	examples = strings.NewReplacer(`\-`, "-", `\(aq`, "'", "\\e\n    ", "").Replace(examples)
	return strings.Split(examples, "\n")
}

func TestEveryMemberHasBothExamples(t *testing.T) {
	all := commands(t)
	has := func(parts ...string) bool {
		return slices.ContainsFunc(all, func(line string) bool {
			for _, part := range parts {
				if !strings.Contains(line+" ", part) {
					return false
				}
			}
			return true
		})
	}
	members := 0
	check := func(what string, ok bool) {
		t.Helper()
		if members++; !ok {
			t.Errorf("there is no example of %s", what)
		}
	}
	for name, i := range read(t).interfaces {
		path := " " + objects[name] + " "
		for _, m := range i.Methods {
			path := " " + objectOf(name, m.Name) + " "
			check(name+"."+m.Name+" by busctl", has("busctl call me.left4"+path+name+" "+m.Name+" "))
			check(name+"."+m.Name+" by gdbus", has("gdbus call", "-o"+path, "-m "+name+"."+m.Name+" "))
		}
		for _, s := range i.Signals {
			check(name+"."+s.Name+" by busctl", has("busctl monitor", fmt.Sprintf("interface='%s',member='%s'", name, s.Name)))
			check(name+"."+s.Name+" by gdbus", has("gdbus monitor", "-o"+path))
		}
		for _, p := range i.Properties {
			check(name+"."+p.Name+" by busctl", has("busctl get-property me.left4"+path+name+" "+p.Name+" "))
			check(name+"."+p.Name+" by gdbus", has("gdbus call", "-o"+path, "-m org.freedesktop.DBus.Properties.Get "+name+" "+p.Name+" "))
		}
	}
	if members < 200 {
		t.Errorf("only %d examples were looked for", members)
	}
}

func TestEveryErrorActionAndFieldStandsInThePage(t *testing.T) {
	whole := text(t, page)
	for file, each := range map[string]struct {
		pattern, in string // the pattern's group in the file, and how the page has it
		least       int
	}{
		"../../daemon/error.go":            {`Code = "([A-Z]\w+)"`, "\n.It Li me.left4.Error.%s\n", 15},
		"../polkit/me.left4.policy":        {`<action id="([a-z0-9.]+)">`, "\n.It Li %s\n", 20},
		"../../dbus/names/names.go":        {`\b(LEFT4_[A-Z]+=)`, " %s ", 10},
		"../../dbus/me.left4.Manager.xml":  {`(?:method|signal) name="(\w+)"`, "\n.It Fn %s\n", 30},
		"../../dbus/me.left4.Instance.xml": {`property name="(\w+)"`, "\n.It Va %s Pq ", 15},
	} {
		found := regexp.MustCompile(each.pattern).FindAllStringSubmatch(text(t, file), -1)
		if len(found) < each.least {
			t.Errorf("%s has only %v", file, found)
		}
		for _, f := range found {
			if f[1] == "Failed" { // left4's own Failed is the bus's
				continue
			}
			if want := fmt.Sprintf(each.in, f[1]); !strings.Contains(whole, want) && !strings.Contains(whole, strings.TrimRight(want, " ")+"\n") {
				t.Errorf("%s of %s does not stand in the page as %q", f[1], file, want)
			}
		}
	}
}

func TestEverySampleIsUsed(t *testing.T) {
	m := read(t)
	used := map[string]bool{}
	var methods []string
	for name, i := range m.interfaces {
		for _, method := range i.Methods {
			methods = append(methods, name+"."+method.Name)
			for _, a := range method.Args {
				if a.Direction == "in" {
					used[bestSample(name+"."+method.Name+"."+a.Name)] = true
				}
			}
		}
	}
	for key := range samples {
		if !used[key] {
			t.Errorf("sample %q is of no use", key)
		}
	}
	for method := range refusals {
		if !slices.Contains(methods, method) {
			t.Errorf("there is no method %s to be refused", method)
		}
	}
}

func TestValues(t *testing.T) {
	for _, c := range []struct {
		value any
		words string
		text  string
	}{
		{uint32(12), "12", "12"},
		{variant{uint16(1)}, "q 1", "<uint16 1>"},
		{variant{true}, "b true", "<true>"},
		{[]string{"a b", "c"}, "2 a b c", "['a b', 'c']"},
		{[][2]string{{"sm", "*"}}, "1 sm *", "[('sm', '*')]"},
		{dict{}, "0", "{}"},
		{dict{{"a", "x"}, {"b", dict{{"c", uint64(7)}}}}, "2 a s x b a{sv} 1 c t 7", "{'a': <'x'>, 'b': <{'c': <uint64 7>}>}"},
		{stream("f"), "3", "handle 0"},
	} {
		if words, text := strings.Join(busctlWords(c.value), " "), gvariant(c.value, false); words != c.words || text != c.text {
			t.Errorf("%#v: %s and %s, want %s and %s", c.value, words, text, c.words, c.text)
		}
	}
	for word, want := range map[string]string{
		"": "''", "a-b": "a-b", "*": "'*'", "a{sv}": "'a{sv}'", "{'a': <'$x'>}": `"{'a': <'\$x'>}"`, `"a"`: `'"a"'`,
	} {
		if got := quoted(word); got != want {
			t.Errorf("%q is quoted as %s, want %s", word, got, want)
		}
	}
}

func TestRoff(t *testing.T) {
	if got, want := literal("a -b 'c' \\\n.d ^~\n"), ".Bd -literal\na \\-b \\(aqc\\(aq \\e\n\\&.d \\(ha\\(ti\n.Ed\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	got := prose(`One sentence. "Another" one (of me.left4.Job.) Third, as NoSuchJob, e.g. that \xNN.`)
	if want := "One sentence.\n\"Another\" one (of \\%me.left4.Job.)\nThird, as \\%NoSuchJob, \\%e.g. that \\%\\exNN.\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
