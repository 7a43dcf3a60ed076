package dbus

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"left4.me/left4/client"
)

// What the client makes of the signals of this server: each change is told once, with what was and what is.
func TestTheClientWatchesThisServer(t *testing.T) {
	startBus(t)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	c, err := client.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.CreateInstance(ctx, "a", client.Config{})
	must(err)

	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for e, err := range c.Watch(ctx) {
			switch e := e.(type) {
			case client.Snapshot:
				lines <- fmt.Sprintf("snapshot of %d instances", len(e.Instances))
			case client.InstanceAdded:
				lines <- "added " + e.Instance.Name
			case client.InstanceChanged:
				lines <- fmt.Sprintf("changed %s %v: %q → %q", e.Instance.Name, e.Changed, e.Before.Label, e.Instance.Label)
			case client.InstanceStateChanged:
				lines <- fmt.Sprintf("state of %s", e.Name)
			case client.InstanceRemoved:
				lines <- "removed " + e.Name
			case client.BlueprintAdded:
				lines <- "blueprint " + e.Blueprint.Name
			case client.OverlayAdded:
				lines <- fmt.Sprintf("overlay %s revision %d", e.Overlay.Name, e.Overlay.Revision)
			case client.JobAdded:
				lines <- fmt.Sprintf("job %s %s of %d, %s", e.Job.Kind, e.Job.Target, e.Job.Requester, e.Job.State)
			case client.JobEnded:
				lines <- fmt.Sprintf("end %s %s %s", e.Job.Kind, e.Job.Target, e.Job.State)
			case nil:
				lines <- err.Error()
			}
		}
	}()
	// next are the lines up to one that begins so, without those of jobs' and instances' steps.
	next := func(last string) []string {
		t.Helper()
		var got []string
		for line := range lines {
			if !strings.HasPrefix(line, "state of") {
				got = append(got, line)
			}
			if strings.HasPrefix(line, last) {
				break
			}
		}
		return got
	}
	expect := func(got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
	expect(next("snapshot"), "snapshot of 1 instances")
	label := "A"
	must(c.ConfigureInstance(ctx, "a", client.Config{Label: &label}, client.ConfigureOptions{}))
	expect(next("changed"), `changed a [Label]: "" → "A"`)
	_, err = c.CreateInstance(ctx, "b", client.Config{})
	must(err)
	expect(next("added"), "added b")
	_, err = c.CreateBlueprint(ctx, "bp", client.Config{})
	must(err)
	expect(next("blueprint"), "blueprint bp")
	_, err = c.CreateOverlay(ctx, "sm", "files", client.OverlayConfig{})
	must(err)
	expect(next("overlay"), "overlay sm revision 1")
	job, err := c.DeleteInstance(ctx, "b", client.JobOptions{})
	must(err)
	_, err = job.Wait(ctx, nil)
	must(err)
	got := next("end")
	if first := fmt.Sprintf("job delete b of %d, queued", os.Getuid()); len(got) < 3 || got[0] != first || got[len(got)-1] != "end delete b done" || !slices.Contains(got, "removed b") {
		t.Errorf("of a job: %q", got)
	}

	may, err := c.GetPermissions(ctx, "a")
	answers := []client.Permission{client.PermissionYes, client.PermissionAuth, client.PermissionNo}
	if err != nil || !slices.Contains(answers, may["me.left4.instance.start"]) {
		t.Errorf("permissions %v, %v", may, err)
	}
	cancel()
	expect(next("context"), context.Canceled.Error())
}
