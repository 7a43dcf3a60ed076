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

func TestProblemsAreRepairedByTheirNames(t *testing.T) {
	c, d, _ := dial(t)
	all := []client.Problem{
		{Kind: "orphaned-instance", Name: "a", Severity: client.SeverityError, What: "it is there", Repair: "define it"},
		{Kind: "full-disk", Name: "/var", Severity: client.SeverityWarning, What: "it is full"},
	}
	for _, p := range all {
		d.AddProblem(p)
	}
	list, err := c.ListProblems(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, list, all)
	for _, which := range [][]string{{"orphaned-overlay"}, nil} {
		job, err := c.RepairProblems(t.Context(), which, client.JobOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := job.Wait(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if list, err = c.ListProblems(t.Context()); err != nil || len(list) != map[bool]int{true: 1, false: 2}[which == nil] {
			t.Errorf("%v: %v, %v", which, list, err)
		}
	}
	expect(t, []string{all[0].ID(), client.Problem{Kind: "x"}.ID()}, []string{"orphaned-instance/a", "x"})
}
