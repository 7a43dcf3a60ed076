package client_test

import (
	"testing"

	"left4.me/left4/client"
)

func TestPermissionsAreToldByTheirActions(t *testing.T) {
	c, d, _ := dial(t)
	d.AddInstance("a", 27015, nil)
	d.SetPermissions(map[string]string{"me.left4.instance.start": "yes", "me.left4.instance.delete": "auth", "me.left4.game.install": "no"})
	for _, name := range []string{"", "a"} {
		p, err := c.GetPermissions(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, p, map[string]client.Permission{
			"me.left4.instance.start": client.PermissionYes, "me.left4.instance.delete": client.PermissionAuth, "me.left4.game.install": client.PermissionNo,
		})
	}
	if _, err := c.GetPermissions(t.Context(), "b"); !client.IsNoSuchInstance(err) {
		t.Errorf("of nobody: %v", err)
	}
}

func TestJobsAreSelectedByAFilter(t *testing.T) {
	c, d, _ := dial(t)
	alice, bob := uint32(1000), uint32(1001)
	d.AddJob("a", map[string]any{"Requester": alice})
	d.AddJob("a", map[string]any{"Requester": bob, "State": "failed"})
	d.AddJob("b", map[string]any{"Kind": "stop", "Requester": alice})
	for _, tt := range []struct {
		name   string
		filter client.JobFilter
		want   []uint32
	}{
		{"none", client.JobFilter{}, []uint32{3, 2, 1}},
		{"target", client.JobFilter{Target: "a"}, []uint32{2, 1}},
		{"kind", client.JobFilter{Kind: "stop"}, []uint32{3}},
		{"state", client.JobFilter{State: client.JobFailed}, []uint32{2}},
		{"requester", client.JobFilter{Requester: &alice}, []uint32{3, 1}},
		{"limit", client.JobFilter{Limit: 2}, []uint32{3, 2}},
		{"all of them", client.JobFilter{Target: "a", Kind: "start", State: client.JobDone, Requester: &alice, Limit: 5}, []uint32{1}},
	} {
		list, err := c.ListJobs(t.Context(), tt.filter)
		if err != nil {
			t.Fatal(err)
		}
		var ids []uint32
		for _, j := range list {
			ids = append(ids, j.ID)
		}
		t.Log(tt.name)
		expect(t, ids, tt.want)
	}
}
