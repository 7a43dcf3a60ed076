package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"time"

	"left4.me/left4/client"
)

func ExampleDial() {
	ctx := context.Background()
	c, err := client.Dial(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	instances, err := c.ListInstances(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, i := range instances {
		fmt.Println(i.Name, i.State, i.Cause)
	}
}

func ExampleDialHost() {
	// Somebody may be asked for a password: time for that, and for a slow network.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.DialHost(ctx, "admin@games.example")
	if err != nil {
		log.Fatal(err) // cannot reach admin@games.example: …
	}
	defer c.Close()
	service, err := c.Service(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("left4d", service.Version)
}

// A server is started and followed until it runs. Ctrl-C ends the waiting, and the job goes on.
func ExampleJob_Wait() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c, err := client.Dial(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	job, err := c.StartInstance(ctx, "versus-1", client.JobOptions{Timeout: 2 * time.Minute})
	switch {
	case errors.Is(err, client.ErrNoSuchInstance):
		log.Fatal("there is no versus-1 yet")
	case client.IsAccessDenied(err):
		log.Fatal("you may not start versus-1")
	case err != nil:
		log.Fatal(err)
	}
	_, err = job.Wait(ctx, func(j client.JobInfo) { fmt.Println(j.State, j.Status) })
	var failed *client.JobError
	switch {
	case errors.As(err, &failed):
		log.Fatalf("job %d: %s: %v", job.ID, failed.Info.State, failed)
	case err != nil:
		log.Fatal(err)
	}
}

// A program that shows which servers run, always as it is now.
func ExampleClient_Watch() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c, err := client.Dial(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	states := map[string]string{}
	for e, err := range c.Watch(ctx) {
		if errors.Is(err, context.Canceled) {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		switch e := e.(type) {
		case client.Snapshot: // at first, and after whatever was not told
			clear(states)
			for _, i := range e.Instances {
				states[i.Name] = i.State
			}
		case client.InstanceAdded:
			states[e.Instance.Name] = e.Instance.State
		case client.InstanceChanged:
			if !slices.Contains(e.Changed, "State") {
				continue
			}
			states[e.Instance.Name] = e.Instance.State
		case client.InstanceRemoved:
			delete(states, e.Name)
		case client.Gone:
			fmt.Println("left4d is away; the servers go on")
			continue
		default:
			continue
		}
		fmt.Println(states)
	}
}

// What is nil in a Config takes its default: here the port, which is the next free one, and much else.
func ExampleClient_CreateInstance() {
	ctx := context.Background()
	c, err := client.Dial(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	hostname, memory := "Versus #1", uint64(2<<30)
	_, err = c.CreateInstance(ctx, "versus-1", client.Config{
		Hostname:  &hostname,
		Arguments: []string{"+map", "c1m1_hotel"},
		Lines:     []string{"sv_cheats 0"},
		Overlays:  []client.Overlay{{Name: "sourcemod", Alias: "*"}, {Name: "maps"}},
		Limits:    &client.Limits{MemoryMax: &memory},
	})
	if err != nil && !errors.Is(err, client.ErrInstanceExists) {
		log.Fatal(err)
	}
	i, err := c.GetInstance(ctx, "versus-1")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("port", i.Port)
}

// What a program needs to know to grey out a button.
func ExampleClient_GetPermissions() {
	ctx := context.Background()
	c, err := client.Dial(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	may, err := c.GetPermissions(ctx, "versus-1")
	if err != nil {
		log.Fatal(err)
	}
	switch may["me.left4.instance.stop"] {
	case client.PermissionYes:
		fmt.Println("stop")
	case client.PermissionAuth:
		fmt.Println("stop, with a password")
	default:
		fmt.Println("you may not stop it")
	}
}
