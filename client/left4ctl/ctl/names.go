package ctl

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"left4.me/left4/client"
)

// What a verb is about: names, and patterns as the shell has them, which are matched here against one list from left4d.
// A name goes to left4d as it is, which knows best whether it is one.

const (
	anInstance = "instance"
	anOverlay  = "overlay"
	aBlueprint = "blueprint"
)

// isPattern tells a pattern from a name, which has none of these characters.
func isPattern(text string) bool { return strings.ContainsAny(text, "*?[") }

// match is path.Match, with [!…] for [^…] as the shell has it too.
func match(pattern, name string) (bool, error) {
	return path.Match(strings.ReplaceAll(pattern, "[!", "[^"), name)
}

// matchAny tells that a name is one of those given or matches a pattern among them; none given means all.
func matchAny(given []string, name string) bool {
	return len(given) == 0 || slices.ContainsFunc(given, func(g string) bool {
		ok, _ := match(g, name)
		return ok || g == name
	})
}

// checkPatterns complains of a pattern that can match nothing because it is none.
func checkPatterns(given []string) error {
	for _, g := range given {
		if _, err := match(g, ""); isPattern(g) && err != nil {
			return usagef("%q is no pattern", g)
		}
	}
	return nil
}

// expand puts the names that match in the place of each pattern, and names each thing once.
func expand(given, all []string) (names, unmatched []string) {
	for _, g := range given {
		if !isPattern(g) {
			names = append(names, g)
			continue
		}
		found := false
		for _, name := range all {
			if ok, _ := match(g, name); ok {
				names, found = append(names, name), true
			}
		}
		if !found {
			unmatched = append(unmatched, g)
		}
	}
	seen := map[string]bool{}
	names = slices.DeleteFunc(names, func(name string) bool {
		twice := seen[name]
		seen[name] = true
		return twice
	})
	return names, unmatched
}

// known are all the names of a kind, asked for once.
type known struct {
	mu    sync.Mutex
	names map[string][]string
}

func (v *invocation) known(noun string) ([]string, error) {
	v.all.mu.Lock()
	defer v.all.mu.Unlock()
	if all, ok := v.all.names[noun]; ok {
		return all, nil
	}
	var all []string
	switch noun {
	case anInstance:
		list, err := v.c.ListInstances(v.ctx)
		if err != nil {
			return nil, err
		}
		for _, i := range list {
			all = append(all, i.Name)
		}
	case anOverlay:
		list, err := v.c.ListOverlays(v.ctx)
		if err != nil {
			return nil, err
		}
		for _, o := range list {
			all = append(all, o.Name)
		}
	case aBlueprint:
		list, err := v.c.ListBlueprints(v.ctx)
		if err != nil {
			return nil, err
		}
		for _, b := range list {
			all = append(all, b.Name)
		}
	}
	if v.all.names == nil {
		v.all.names = map[string][]string{}
	}
	v.all.names[noun] = all
	return all, nil
}

// find gives the names that are meant, and the patterns that match none.
func (v *invocation) find(noun string, given []string) (names, unmatched []string, err error) {
	if err := checkPatterns(given); err != nil {
		return nil, nil, err
	}
	var all []string
	if slices.ContainsFunc(given, isPattern) {
		if all, err = v.known(noun); err != nil {
			return nil, nil, v.failed("list the "+noun+"s", "", err)
		}
	}
	names, unmatched = expand(given, all)
	return names, unmatched, nil
}

// named gives the names that a verb shall be done to. A pattern that matches nothing is told; the error it is in the
// end does not keep the verb from being done to the others.
func (v *invocation) named(verb, noun string, given []string) (names []string, err error) {
	names, unmatched, err := v.find(noun, given)
	if err != nil {
		return nil, err
	}
	for _, pattern := range unmatched {
		v.complain(fmt.Sprintf("cannot %s %s: no %s matches", verb, pattern, noun))
		v.hint("left4ctl " + listVerb(noun) + " shows all " + noun + "s")
		err = exitCode(exitFailure)
	}
	return names, err
}

// selected gives the names that are to be shown. That a pattern matches nothing is no error then.
func (v *invocation) selected(noun string, given []string) (names []string, err error) {
	names, unmatched, err := v.find(noun, given)
	for _, pattern := range unmatched {
		v.say("No %s matches %s.", noun, pattern)
	}
	return names, err
}

// show prints what there is to know of each name, and tells of those that it cannot show.
func show[T any](v *invocation, names []string, get func(name string) (T, error), asJSON func(T) any, print func(T)) error {
	answers := ask(v, names, get)
	return firstOf(refusals(v, "show", answers), printShown(v, answers, asJSON, print))
}

// printShown prints what there are answers of: as JSON one object if one thing was asked for by its name, else an array;
// as text one below the other.
func printShown[T any](v *invocation, answers []answer[T], asJSON func(T) any, print func(T)) error {
	all := []any{}
	for _, a := range answers {
		if a.err != nil {
			continue
		}
		if !v.json && len(all) > 0 {
			fmt.Fprintln(v.stdout)
		}
		if !v.json {
			print(a.value)
		}
		all = append(all, asJSON(a.value))
	}
	switch {
	case !v.json, one(v.args) && len(all) == 0:
		return nil
	case one(v.args):
		return printJSON(v.stdout, all[0])
	}
	return printJSON(v.stdout, all)
}

func listVerb(noun string) string {
	if noun == anInstance {
		return "list"
	}
	return noun + " list"
}

// one tells that exactly one thing is asked for, by its name. Then JSON is one object and not an array of them.
func one(given []string) bool { return len(given) == 1 && !isPattern(given[0]) }

// answer is what came of a question about one name.
type answer[T any] struct {
	name  string
	value T
	err   error
}

// maxAsked is how many questions are open at once: enough for speed, and far from the quotas of left4d.
const maxAsked = 32

// ask puts a question for each name, side by side, and returns the answers in the order of the names.
//
// Where polkit may have to ask a person, it is let to do so for the first name, which may settle it for all; then the
// others are asked without a person; and those that need one at last, one after the other, since an agent has one prompt.
func ask[T any](v *invocation, names []string, call func(name string) (T, error)) []answer[T] {
	answers := make([]answer[T], len(names))
	put := func(n int) {
		a := &answers[n]
		a.name = names[n]
		if a.err = v.ctx.Err(); a.err == nil {
			a.value, a.err = call(a.name)
		}
	}
	first := 0
	if v.prompts() && len(names) > 1 {
		put(0)
		if client.IsUnavailable(answers[0].err) {
			return answers[:1]
		}
		first = 1
		v.c.NoInteraction = true
	}
	var all sync.WaitGroup
	places := make(chan struct{}, maxAsked)
	for n := first; n < len(names); n++ {
		places <- struct{}{}
		all.Add(1)
		go func() {
			defer all.Done()
			put(n)
			<-places
		}()
	}
	all.Wait()
	if first > 0 {
		v.c.NoInteraction = false
		for n := first; n < len(names); n++ {
			if errors.Is(answers[n].err, client.ErrInteractiveAuth) {
				put(n)
			}
		}
	}
	return answers
}

// prompts tells that a call of this verb may end up before a person.
func (v *invocation) prompts() bool {
	return v.command.asks && len(v.hosts) == 0 && !v.noAskPassword && !v.root
}

// refusals tells of each answer that is an error. What would be said of all, that left4d is away or we were
// interrupted, is said once.
func refusals[T any](v *invocation, verb string, answers []answer[T]) error {
	var result error
	away := false
	for _, a := range answers {
		if a.err == nil {
			continue
		}
		all := client.IsUnavailable(a.err) || v.ctx.Err() != nil
		if all && away {
			continue
		}
		away = away || all
		if _, told := a.err.(exitCode); told {
			result = a.err
			continue
		}
		result = v.failed(verb, a.name, a.err)
	}
	return result
}

// each does to each name what needs no job, and returns those that it was done to.
func (v *invocation) each(verb string, names []string, do func(name string) error) (done []string, err error) {
	answers := ask(v, names, func(name string) (struct{}, error) { return struct{}{}, do(name) })
	for _, a := range answers {
		if a.err == nil {
			done = append(done, a.name)
		}
	}
	return done, refusals(v, verb, answers)
}

// assignments reads the KEY=VALUE of configure, and returns the names before them.
func (v *invocation) assignments() (names []string, err error) { return v.assigned(&v.settings) }

// assignable are the keys that KEY=VALUE can name.
type assignable interface {
	knows(name string) bool
	assign(text string) error
}

func (v *invocation) assigned(to assignable) (names []string, err error) {
	n := 0
	for n < len(v.args) && !strings.Contains(v.args[n], "=") && (n == 0 || !to.knows(v.args[n])) {
		n++
	}
	if n == 0 {
		return nil, usagef("%s needs %s", v.command.name, v.command.args)
	}
	for _, a := range v.args[n:] {
		if err := to.assign(a); err != nil {
			return nil, err
		}
	}
	return v.args[:n], nil
}

// firstOf is the first error that there is.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
