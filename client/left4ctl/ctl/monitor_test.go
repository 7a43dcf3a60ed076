package ctl

import (
	"slices"
	"testing"

	"left4.me/left4/client"
)

// What was not told when it happened is told when it is known again.
func TestMonitorTellsWhatItMissed(t *testing.T) {
	instance := func(name, state string) client.Instance {
		return client.Instance{InstanceSummary: client.InstanceSummary{Name: name, State: state}}
	}
	job := func(id uint32, state string) client.JobInfo {
		return client.JobInfo{JobSummary: client.JobSummary{ID: id, Kind: "start", Target: "a", State: state}}
	}
	m := monitor{}
	tell := func(e client.Event) (lines []string) {
		for _, h := range m.happenings(e) {
			lines = append(lines, h.Event+": "+h.text)
		}
		return lines
	}
	for _, tt := range []struct {
		event client.Event
		want  []string
	}{
		{client.Gone{}, []string{"left4d-gone: left4d: away"}},
		{client.Snapshot{
			Instances: []client.Instance{instance("a", "stopped"), instance("b", "running")}, Jobs: []client.JobInfo{job(1, "running"), job(2, "done")},
		}, []string{"left4d-back: left4d: back"}},
		{client.Snapshot{
			Missed: true, Instances: []client.Instance{instance("a", "running"), instance("c", "stopped")}, Jobs: []client.JobInfo{job(1, "failed"), job(2, "done"), job(3, "queued")},
		}, []string{
			"missed: left4d: more happened than could be told", "instance-state: instance a: stopped → running",
			"instance-added: instance c: created, port 0", "instance-removed: instance b: deleted", "job-ended: job 1 (start a): failed",
		}},
		{client.Gone{}, []string{"left4d-gone: left4d: away"}},
		{client.Snapshot{Missed: true, Instances: []client.Instance{instance("a", "running")}}, []string{
			"left4d-back: left4d: back", "missed: left4d: more happened than could be told", "instance-removed: instance c: deleted",
		}},
	} {
		if got := tell(tt.event); !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %q, want %q", tt.event, got, tt.want)
		}
	}
}

// An import tells how far it is twice a second: a line is worth a tenth of the way, or another step.
func TestMonitorTellsStepsThatAreSteps(t *testing.T) {
	m := monitor{jobs: map[uint32]client.JobInfo{}, steps: map[uint32]string{}}
	var got []string
	for _, s := range []struct {
		status   string
		progress float64
	}{{"1 file", 0.01}, {"2 files", 0.05}, {"30 files", 0.31}, {"31 files", 0.32}, {"publishing", 0.32}} {
		h := m.happenings(client.JobChanged{Job: client.JobInfo{
			JobSummary: client.JobSummary{ID: 1, Kind: "import-overlay", Target: "sm", State: "running"}, Status: s.status, Progress: s.progress,
		}})
		if len(h) != 1 || h[0].Status != s.status {
			t.Fatalf("%+v", h)
		}
		got = append(got, h[0].text)
	}
	want := []string{"job 1 (import-overlay sm): 1 file", "job 1 (import-overlay sm): 2 files", "job 1 (import-overlay sm): 30 files", "", "job 1 (import-overlay sm): publishing"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
