package abuse

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// Sizes of the bodies that large sends: what left4d takes at most, what it decodes without taking turns, one between, more
// than it takes, and what the bus takes at most.
var sizes = []int{1000 << 10, 60 << 10, 500 << 10, 4 << 20, 31 << 20}

// bodies fill about so many bytes with what takes the most room, or the most time, when it is decoded.
var bodies = []struct {
	name, signature string
	fill            func(e *encoder, size int)
}{
	{"a string", "sa{sv}a{sv}", func(e *encoder, size int) {
		e.string(strings.Repeat("x", size))
		e.array(8, func() {})
		e.array(8, func() {})
	}},
	{"a{sv} of empty keys", "sa{sv}a{sv}", func(e *encoder, size int) {
		e.string(scratch)
		e.array(8, func() {
			for n := 0; len(e.b) < size; n++ {
				e.align(8)
				e.string("")
				e.signature("y")
				e.b = append(e.b, 1)
			}
		})
		e.array(8, func() {})
	}},
	{"a{sv} of many keys", "sa{sv}a{sv}", func(e *encoder, size int) {
		e.string(scratch)
		e.array(8, func() {
			for n := 0; len(e.b) < size; n++ {
				e.align(8)
				e.string(fmt.Sprint(n))
				e.signature("y")
				e.b = append(e.b, 1)
			}
		})
		e.array(8, func() {})
	}},
	{"strings in arguments", "sa{sv}a{sv}", one("arguments", "as", func(e *encoder, size int) {
		e.array(4, func() {
			for len(e.b) < size {
				e.string("")
			}
		})
	})},
	{"pairs in overlays", "sa{sv}a{sv}", one("overlays", "a(ss)", func(e *encoder, size int) {
		e.array(8, func() {
			for len(e.b) < size {
				e.align(8)
				e.string("")
				e.string("")
			}
		})
	})},
	{"variants", "sa{sv}a{sv}", one("limits", "av", func(e *encoder, size int) {
		e.array(1, func() {
			for len(e.b) < size {
				e.signature("y")
				e.b = append(e.b, 1)
			}
		})
	})},
	{"deep variants", "sa{sv}a{sv}", one("limits", "av", func(e *encoder, size int) {
		e.array(1, func() {
			for len(e.b) < size {
				(&chance{}).deep(e, 58)
			}
		})
	})},
	{"deep arrays", "sa{sv}a{sv}", one("limits", strings.Repeat("a", 30)+"y", func(e *encoder, size int) {
		var nest func(depth int)
		nest = func(depth int) {
			if depth == 1 {
				e.uint32(0)
				return
			}
			e.array(4, func() {
				for first := true; first || depth == 30 && len(e.b) < size; first = false {
					nest(depth - 1)
				}
			})
		}
		nest(30)
	})},
	{"deep structs", "sa{sv}a{sv}", one("limits", "a"+strings.Repeat("(", 28)+"y"+strings.Repeat(")", 28), func(e *encoder, size int) {
		e.array(8, func() {
			for len(e.b) < size {
				e.align(8)
				e.b = append(e.b, 1)
			}
		})
	})},
	{"an unknown object", "", nil}, // with a long path
}

// one is a dictionary with one key.
func one(key, sig string, value func(e *encoder, size int)) func(*encoder, int) {
	return func(e *encoder, size int) {
		e.string(scratch)
		e.array(8, func() {
			e.align(8)
			e.string(key)
			e.signature(sig)
			value(e, size)
		})
		e.array(8, func() {})
	}
}

// large sends messages as large as the bus takes them, and as left4d does. The bus ends the connection of who sends more;
// then another is made.
func (a *attack) large(ctx context.Context) error {
	a.ready()
	return a.each(ctx, func(c int, b *Bus) error {
		defer func() { b.Close() }()
		for n := c; (a.Count == 0 || n < a.Count) && ctx.Err() == nil; n += a.Connections {
			body, size := bodies[n%len(bodies)], sizes[n/len(bodies)%len(sizes)]
			m := Message{To: names.Service, Path: string(names.Root), Interface: names.Manager, Member: "CreateInstance", Signature: body.signature}
			if body.fill != nil {
				e := &encoder{}
				body.fill(e, size)
				m.Body = e.b
			} else {
				// One of more than 64 KiB is passed over without an answer.
				m.Path = "/" + strings.Repeat("a", min(size, 60_000))
			}
			raw := m.Raw()
			serial, err := b.Send(raw)
			var r *Reply
			if err == nil {
				r, err = b.Await(serial)
			}
			a.sent(1)
			if err != nil && ctx.Err() == nil {
				if err != io.EOF && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "broken pipe") {
					a.fault("%s of %d bytes: %v", body.name, len(raw), err)
				}
				a.mu.Lock()
				a.tally.Lost++
				a.mu.Unlock()
				b.Close()
				next, done, err := a.dial(ctx)
				if err != nil {
					return err
				}
				defer done()
				b = next
				continue
			}
			if err != nil {
				return err
			}
			a.answered(r)
			if r.Kind == dbus.TypeMethodReply {
				a.fault("%s of %d bytes was accepted", body.name, len(raw))
			} else {
				a.judge(try{m, body.name, ""}, r)
			}
		}
		return nil
	})
}
