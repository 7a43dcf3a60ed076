package abuse

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// Took is how long one kind of call took.
type Took struct {
	Kind   string        `json:"kind"`
	Calls  int           `json:"calls"`
	Median time.Duration `json:"median"`
	P99    time.Duration `json:"p99"`
	Most   time.Duration `json:"most"`
}

// Floor is a call of somebody else than left4d: what the bus itself takes for a call and its answer.
const Floor = "Ping of systemd"

// Latency calls left4d, one call after the other, and times each kind of call: Count of each, or fewer if that takes longer
// than Most. Nobody may be refused.
func Latency(ctx context.Context, o Options) ([]Took, error) {
	b, err := Dial(o.Socket)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	floor, err := NewCall("org.freedesktop.systemd1", "/org/freedesktop/systemd1", names.Peer, "Ping")
	if err != nil {
		return nil, err
	}
	none := map[string]dbus.Variant{}
	kinds := []struct {
		name string
		call func(n int) Message
	}{
		{Floor, func(int) Message { return floor }},
		{"Ping", func(int) Message { return left4d(names.Root, names.Peer, "Ping") }},
		{"Get", func(int) Message {
			return left4d(names.InstancePath(o.Instance), names.Properties, "Get", names.Instance, "State")
		}},
		{"GetInstance", func(int) Message { return manager("GetInstance", o.Instance) }},
		{"ListInstances", func(int) Message { return manager("ListInstances", none) }},
		{"ConfigureInstance", func(n int) Message {
			return manager("ConfigureInstance", o.Instance, map[string]dbus.Variant{"label": dbus.MakeVariant(fmt.Sprintf("round %d", n))}, none)
		}},
	}
	took := make([][]time.Duration, len(kinds))
	began := time.Now()
	for n := 0; n < o.Count && (n < 3 || time.Since(began) < o.Most); n++ {
		for k, kind := range kinds {
			m := kind.call(n)
			began := time.Now()
			r, err := b.Call(m)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind.name, err)
			}
			took[k] = append(took[k], time.Since(began))
			if r.Error != "" {
				text, _ := r.Text()
				return nil, fmt.Errorf("%s: %s: %s", kind.name, r.Error, text)
			}
		}
	}
	all := make([]Took, len(kinds))
	for k, kind := range kinds {
		t := took[k]
		slices.Sort(t)
		all[k] = Took{kind.name, len(t), t[len(t)/2], t[len(t)*99/100], t[len(t)-1]}
	}
	return all, nil
}
