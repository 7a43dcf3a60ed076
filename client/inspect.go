package client

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// Host is what left4d tells anybody of its instances and of what it is at, all at one moment.
type Host struct {
	Instances []Instance // by name
	Jobs      []JobInfo  // that are queued or running, by id
}

// Inspect returns all that is known of all instances and of the jobs that have not ended, in one question.
func (c *Client) Inspect(ctx context.Context) (Host, error) {
	var h Host
	var objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	if err := c.call(ctx, names.Root, names.ObjectManager, "GetManagedObjects", nil, &objects); err != nil {
		return h, err
	}
	for path, interfaces := range objects {
		if values, ok := interfaces[names.Instance]; ok {
			i, err := instanceInfo(path, &properties{values: values})
			if err != nil {
				return Host{}, err
			}
			h.Instances = append(h.Instances, i)
		}
		if values, ok := interfaces[names.Job]; ok {
			p := properties{values: values}
			j := JobInfo{JobSummary: JobSummary{Object: path}, Progress: -1}
			j.ID, _ = names.JobID(path)
			if j.update(&p); p.err != nil {
				return Host{}, p.err
			}
			if !j.Ended() {
				h.Jobs = append(h.Jobs, j)
			}
		}
	}
	slices.SortFunc(h.Instances, func(a, b Instance) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(h.Jobs, func(a, b JobInfo) int { return cmp.Compare(a.ID, b.ID) })
	return h, nil
}

// Since asks systemd since when left4d runs; zero is an answer too, where it has not been started as a unit.
func (c *Client) Since(ctx context.Context) (time.Time, error) {
	const systemd = "org.freedesktop.systemd1"
	var unit dbus.ObjectPath
	object := c.conn.Object(systemd, "/org/freedesktop/systemd1")
	if err := object.CallWithContext(ctx, systemd+".Manager.GetUnit", 0, "left4d.service").Store(&unit); err != nil {
		return time.Time{}, c.fromBus(err)
	}
	var value dbus.Variant
	call := c.conn.Object(systemd, unit).CallWithContext(ctx, names.Properties+".Get", 0, systemd+".Unit", "ActiveEnterTimestamp")
	if err := call.Store(&value); err != nil {
		return time.Time{}, c.fromBus(err)
	}
	usec, _ := value.Value().(uint64)
	return moment(usec), nil
}

// UID asks the bus who we are for it, which over ssh is somebody else than here.
func (c *Client) UID(ctx context.Context) (uint32, error) {
	var uid uint32
	call := c.conn.BusObject().CallWithContext(ctx, names.Bus+".GetConnectionUnixUser", 0, c.conn.Names()[0])
	return uid, c.fromBus(call.Store(&uid))
}
