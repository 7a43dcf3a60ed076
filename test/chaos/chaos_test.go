package chaos

import (
	"math/rand/v2"
	"testing"
)

func TestASeedGivesTheSameVerbs(t *testing.T) {
	draw := func(seed uint64, caller int) (all []wish) {
		o := Options{Seed: seed, Caller: caller, Names: []string{"a", "b", "c"}}
		random := rand.New(rand.NewPCG(o.Seed, uint64(o.Caller)))
		for n := range 1000 {
			all = append(all, o.next(random, n))
		}
		return all
	}
	first := draw(7, 1)
	count := map[string]int{}
	for n, w := range draw(7, 1) {
		if w != first[n] {
			t.Fatalf("call %d is %+v and then %+v", n, first[n], w)
		}
		count[w.call.Verb]++
	}
	for verb := range methods {
		if count[verb] == 0 {
			t.Errorf("no %s in %d calls", verb, len(first))
		}
	}
	sum := 0
	for _, m := range methods {
		sum += m.weight
	}
	if sum != 1000 || count[""] != 0 {
		t.Errorf("the weights sum up to %d, and %d calls have no verb", sum, count[""])
	}
	for what, other := range map[string][]wish{"seed": draw(8, 1), "caller": draw(7, 2)} {
		same := 0
		for n := range other {
			if other[n].call.Verb == first[n].call.Verb && other[n].call.Name == first[n].call.Name {
				same++
			}
		}
		if same > len(first)/2 {
			t.Errorf("another %s gives %d of %d times the same", what, same, len(first))
		}
	}
}
