package ctl

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

// The shells ask "left4ctl __complete -- WORD…" what the last of the words after left4ctl could become, and so know verbs,
// flags and names without a line of their own about any of them. The answer is a line that says how to go on:
//
//	words      each further line is a word, then maybe a tab and what it means
//	nospace    the same, and a word is not at its end yet
//	files      the last word is a file's name, which the shell itself knows how to complete
//
// A question is answered within completeTime, and without a word on standard error: in the middle of a line that somebody
// types there is no place for one. Only names that are ones are told, so none can hold anything that a shell would obey.

const completeTime = 2 * time.Second

// completion is what a word could become.
type completion struct {
	files   bool
	nospace bool
	words   []candidate
}

type candidate struct{ word, meaning string }

func (c *completion) add(meaning string, words ...string) {
	for _, w := range words {
		c.words = append(c.words, candidate{w, meaning})
	}
}

// runComplete answers a shell.
func (v *invocation) runComplete(args []string) int {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		args = []string{""}
	}
	ctx, cancel := context.WithTimeout(v.ctx, completeTime)
	defer cancel()
	v.ctx = ctx
	done, word := args[:len(args)-1], args[len(args)-1]
	c := v.complete(done, word)
	if v.c != nil {
		v.c.Close()
	}
	head := "words"
	switch {
	case c.files:
		head = "files"
	case c.nospace:
		head = "nospace"
	}
	fmt.Fprintln(v.stdout, head)
	for _, w := range c.words {
		if strings.HasPrefix(w.word, word) {
			fmt.Fprintln(v.stdout, strings.TrimSuffix(w.word+"\t"+clean(w.meaning), "\t"))
		}
	}
	return exitOK
}

func (v *invocation) complete(done []string, word string) completion {
	verb, rest := findVerb(done)
	v.command = find(strings.Join(verb, " "))
	if v.command == nil {
		fs := v.flagSet(&command{})
		if _, _, pending, _ := splitFlags(fs, done); pending != nil {
			return v.flagValues(pending, "", word)
		}
		if strings.HasPrefix(word, "-") {
			return flagNames(fs, nil)
		}
		return verbNames(strings.Join(verb, " "))
	}
	fs := v.flagSet(v.command)
	given, seen, pending, onlyArguments := splitFlags(fs, rest)
	v.args, v.flags, v.elsewhere, v.typed = given, fs, seen["host"], rest
	switch name, value, ok := strings.Cut(word, "="); {
	case pending != nil:
		return v.flagValues(pending, "", word)
	case onlyArguments || !strings.HasPrefix(word, "-"):
		return v.arguments(word)
	case ok && strings.HasPrefix(name, "--"):
		if f := fs.Lookup(name[2:]); f != nil {
			return v.flagValues(f, name+"=", value)
		}
		return completion{}
	}
	return flagNames(fs, seen)
}

// splitFlags parts words into arguments and flags. pending is the flag whose value would be the next word.
func splitFlags(fs *pflag.FlagSet, words []string) (given []string, seen map[string]bool, pending *pflag.Flag, onlyArguments bool) {
	seen = map[string]bool{}
	for n := 0; n < len(words); n++ {
		w := words[n]
		var f *pflag.Flag
		inside := false // the word has the value in it
		switch {
		case onlyArguments || len(w) < 2 || w[0] != '-':
			given = append(given, w)
			continue
		case w == "--":
			onlyArguments = true
			continue
		case strings.HasPrefix(w, "--"):
			name, _, ok := strings.Cut(w[2:], "=")
			f, inside = fs.Lookup(name), ok
		default:
			for i := 1; i < len(w); i++ {
				if w[i] > 127 { // pflag looks up ASCII only
					break
				}
				if f = fs.ShorthandLookup(w[i : i+1]); f == nil {
					break
				}
				seen[f.Name] = true
				if f.NoOptDefVal == "" {
					inside = i+1 < len(w)
					break
				}
			}
		}
		if f == nil {
			continue
		}
		seen[f.Name] = true
		if f.NoOptDefVal != "" || inside {
			continue
		}
		if n+1 == len(words) {
			return given, seen, f, onlyArguments
		}
		n++
	}
	return given, seen, nil, onlyArguments
}

// verbNames are the words that can follow those of a verb that are there, with what the verb does.
func verbNames(before string) completion {
	var c completion
	if before != "" {
		before += " "
	}
	for _, verb := range verbs() {
		after, ok := strings.CutPrefix(verb.name, before)
		if !ok {
			continue
		}
		word, more, _ := strings.Cut(after, " ")
		if more == "" {
			c.add(verb.summary, word)
		} else if !slices.ContainsFunc(c.words, func(w candidate) bool { return w.word == word }) {
			c.add(strings.ToLower(verb.group), word)
		}
	}
	return c
}

// flagNames are the flags that are not given yet, or can be given again.
func flagNames(fs *pflag.FlagSet, seen map[string]bool) completion {
	var c completion
	fs.VisitAll(func(f *pflag.Flag) {
		if !seen[f.Name] || f.Annotations[repeatable] != nil {
			_, usage := pflag.UnquoteUsage(f)
			first, _, _ := strings.Cut(usage, "\n")
			c.add(first, "--"+f.Name)
		}
	})
	return c
}

// jobKinds are the kinds of jobs that there are.
var jobKinds = []string{
	"initialize", "start", "stop", "restart", "kill", "reset", "delete", "import-game", "install-game", "import-overlay", "build-overlay",
	"delete-overlay", "collect", "repair",
}

var restartPolicies = []string{"always", "on-failure", "no"}

// flagValues are the values that a flag can have; before is what stands in front of it in the same word.
func (v *invocation) flagValues(f *pflag.Flag, before, value string) completion {
	var c completion
	list := "" // the elements of a list that are there already
	switch f.Name {
	case "blueprint":
		c = v.names(aBlueprint)
	case "overlay":
		c = v.names(anOverlay)
	case "host":
		c.add("", sshHosts()...)
	case "instance":
		c = v.names(anInstance)
	case "target":
		c = v.names(anInstance, anOverlay)
		c.add("the game", "game")
	case "file", "cursor-file", "script":
		c.files = before == ""
	case "restart":
		c.add("", restartPolicies...)
	case "arg":
		c = v.mapNames()
	case "type":
		c.add("", overlayTypes...)
	case "limit":
		c.nospace = true
		for _, l := range limits {
			c.add("", l.name+"=")
		}
	case "kind":
		c.add("", jobKinds...)
	case "output":
		c.add("", logOutputs...)
	case "sort":
		c.add("", columnNames()...)
		if strings.HasPrefix(value, "-") {
			for n := range c.words {
				c.words[n].word = "-" + c.words[n].word
			}
		}
	case "columns":
		c.nospace = true
		list = value[:strings.LastIndexByte(value, ',')+1]
		c.add("", columnNames()...)
	case "state":
		if v.command.name == "job list" {
			c.add("", jobStates...)
			break
		}
		c.nospace = true
		list = value[:strings.LastIndexByte(value, ',')+1]
		c.add("", states...)
	}
	there := strings.Split(list, ",")
	c.words = slices.DeleteFunc(c.words, func(w candidate) bool { return list != "" && slices.Contains(there, w.word) })
	for n := range c.words {
		c.words[n].word = before + list + c.words[n].word
	}
	return c
}

// arguments are what can stand where the word is, as the synopsis of the verb tells.
func (v *invocation) arguments(word string) completion {
	var all completion
	at, repeated := len(v.args), false
	for n, token := range strings.Fields(v.command.args) {
		more := strings.HasSuffix(token, "…") || token == "[VERB]" // which may be of two words
		if at == n || at > n && (more || repeated) {
			c := v.argument(strings.Trim(token, "[]…"), word)
			all.words = append(all.words, c.words...)
			all.files, all.nospace = all.files || c.files, all.nospace || c.nospace
		}
		repeated = repeated || more
	}
	all.words = slices.DeleteFunc(all.words, func(w candidate) bool { return slices.Contains(v.args, w.word) })
	return all
}

func (v *invocation) argument(token, word string) completion {
	var c completion
	verb := v.command.name
	assigned := len(v.args) > 0 && strings.Contains(v.args[len(v.args)-1], "=")
	switch token {
	case "NAME":
		switch group, _, _ := strings.Cut(verb, " "); {
		case strings.HasSuffix(verb, "create"), assigned:
		case group == anOverlay:
			c = v.names(anOverlay)
		case group == aBlueprint:
			c = v.names(aBlueprint)
		case verb == "maps":
			c = v.names(anInstance, anOverlay)
		case verb == "audit", verb == "monitor":
			c = v.names(anInstance, anOverlay, aBlueprint)
		default:
			c = v.names(anInstance)
		}
	case "BLUEPRINT":
		c = v.names(aBlueprint)
	case "ID":
		c = v.jobNumbers(verb != "job show")
	case "FILE", "DIR|FILE":
		c.files = true
	case "KEY":
		c.add("", client.SecretRconPassword)
	case "PROBLEM":
		c = v.problems()
	case "KEY=VALUE":
		c = v.keyValues(word)
	case "VERB":
		c = verbNames(strings.Join(v.args, " "))
	}
	return c
}

// problems are those that there are, if nobody has to be asked whether they may be told.
func (v *invocation) problems() completion {
	var c completion
	if !v.lookUp() {
		return c
	}
	list, _ := v.c.ListProblems(v.ctx)
	for _, p := range list {
		if !strings.ContainsFunc(p.ID(), func(r rune) bool { return !plainInShells(r) }) {
			c.add(p.Severity, p.ID())
		}
	}
	return c
}

// plainInShells are characters that no shell takes for more than they are.
func plainInShells(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./@", r)
}

// keyValues are the keys that configure takes, or the values of one that is there.
func (v *invocation) keyValues(word string) completion {
	c := completion{nospace: true}
	key, _, ok := strings.Cut(word, "=")
	if ok {
		c.nospace = false
		switch key {
		case "blueprint":
			c = v.names(aBlueprint)
		case "overlays":
			c = v.names(anOverlay)
		case "restart":
			c.add("", restartPolicies...)
		case "arguments":
			c = v.mapNames()
		}
		for n := range c.words {
			c.words[n].word = key + "=" + c.words[n].word
		}
		return c
	}
	if strings.HasPrefix(v.command.name, anOverlay+" ") {
		for _, k := range layerKeys {
			usage, _, _ := strings.Cut(strings.ReplaceAll(k.usage, "`", ""), "\n")
			c.add(usage, k.name+"=")
		}
		return c
	}
	for _, k := range v.settings.keys() {
		usage, _, _ := strings.Cut(k.usage, "\n")
		c.add(usage, k.name+"=")
	}
	for _, l := range limits {
		c.add("a limit, as in a unit file", l.name+"=")
	}
	c.add("all limits at their defaults", "limits=")
	return c
}

// mapNames are the maps of the instance that is configured, where one follows, if nobody has to be asked whether they may be told.
func (v *invocation) mapNames() completion {
	var c completion
	if v.command.name != "configure" || len(v.args) == 0 || !mapFollows(v.typed) || !v.lookUp() {
		return c
	}
	found, _ := v.c.InstanceMaps(v.ctx, v.args[0])
	for _, m := range found.Maps {
		if !strings.ContainsFunc(m.Name, func(r rune) bool { return !plainInShells(r) }) {
			c.add(m.Campaign, m.Name)
		}
	}
	return c
}

// mapFollows tells whether the value that follows these words is that of +map.
func mapFollows(typed []string) bool {
	if n := len(typed) - 1; n >= 0 && typed[n] == "--arg" {
		typed = typed[:n]
	}
	n := len(typed) - 1
	return n >= 0 && (typed[n] == "arguments=+map" || typed[n] == "--arg=+map" || typed[n] == "+map" && n > 0 && typed[n-1] == "--arg")
}

// sshHosts are the hosts that ssh has a configuration of for this user.
func sshHosts() []string {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(home, ".ssh", "config"))
	if err != nil {
		return nil
	}
	var hosts []string
	for line := range strings.Lines(string(text)) {
		words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\r\n=\"", r) })
		if len(words) == 0 || !strings.EqualFold(words[0], "Host") {
			continue
		}
		for _, host := range words[1:] {
			if _, err := (client.Remote{Host: host}).Command(); err == nil { // and no pattern
				hosts = append(hosts, host)
			}
		}
	}
	return hosts
}

// lookUp connects to left4d, to ask it for names. That of another machine is not asked: it would take too long, and ssh
// might want a password.
func (v *invocation) lookUp() bool {
	if v.elsewhere {
		return false
	}
	if v.c == nil {
		c, err := v.dial(v.ctx)
		if err != nil {
			return false
		}
		c.NoInteraction = true
		v.c = c
	}
	return true
}

// names are the names of these kinds.
func (v *invocation) names(kinds ...string) completion {
	var c completion
	if !v.lookUp() {
		return c
	}
	for _, kind := range kinds {
		all, _ := v.known(kind)
		meaning := ""
		if len(kinds) > 1 {
			meaning = kind
		}
		for _, name := range all {
			if validName(name) {
				c.add(meaning, name)
			}
		}
	}
	return c
}

// jobNumbers are the numbers of jobs, or of those that have not ended, with what they are.
func (v *invocation) jobNumbers(live bool) completion {
	var c completion
	if !v.lookUp() {
		return c
	}
	list, _ := v.c.ListJobs(v.ctx, client.JobFilter{})
	for _, j := range list {
		if !live || j.State == client.JobQueued || j.State == client.JobRunning {
			c.add(j.Kind+" "+j.Target+", "+j.State, jobNumber(j.ID))
		}
	}
	return c
}
