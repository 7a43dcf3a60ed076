package ctl

import (
	"fmt"
	"slices"

	"left4.me/left4/client"
)

func runExport(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	h, err := v.export(c)
	if err != nil {
		return err
	}
	text := h.text()
	if len(text) > maxHostFile {
		v.complain(fmt.Sprintf("cannot export: the file would have more than the %d MiB that apply reads", maxHostFile>>20))
		v.hint("left4ctl export NAME… exports some instances, with what they need")
		return exitCode(exitFailure)
	}
	fmt.Fprint(v.stdout, text)
	return nil
}

// export reads the definitions of the instances that are named, and of what they need, or all that there are.
func (v *invocation) export(c *client.Client) (*host, error) {
	h := &host{}
	all := len(v.args) == 0
	// A file that lacks something of what was named would be taken for the whole.
	instances, err := v.named("export", anInstance, v.args)
	if err != nil {
		return nil, err
	}
	slices.Sort(instances)
	var blueprints []string
	if all {
		list, err := c.ListInstances(v.ctx)
		if err != nil {
			return nil, v.failed("list the instances", "", err)
		}
		for _, i := range list {
			instances = append(instances, i.Name)
		}
		known, err := c.ListBlueprints(v.ctx)
		if err != nil {
			return nil, v.failed("list the blueprints", "", err)
		}
		for _, b := range known {
			blueprints = append(blueprints, b.Name)
		}
	}
	needed := map[string]bool{}
	read := func(to *[]definition, name string, get func() (client.Config, error)) error {
		config, err := get()
		if err != nil {
			return v.failed("export", name, err)
		}
		for _, o := range config.Overlays {
			needed[o.Name] = true
		}
		*to = append(*to, definition{name: name, config: completed(config)})
		return nil
	}
	for _, name := range instances {
		if err := read(&h.instances, name, func() (client.Config, error) { return c.GetInstanceConfig(v.ctx, name) }); err != nil {
			return nil, err
		}
		if b := *h.instances[len(h.instances)-1].config.Blueprint; !all && b != "" && !slices.Contains(blueprints, b) {
			blueprints = append(blueprints, b)
		}
	}
	slices.Sort(blueprints)
	for _, name := range blueprints {
		if err := read(&h.blueprints, name, func() (client.Config, error) { return c.GetBlueprintConfig(v.ctx, name) }); err != nil {
			return nil, err
		}
	}
	overlays, err := c.ListOverlays(v.ctx)
	if err != nil {
		return nil, v.failed("list the overlays", "", err)
	}
	for _, o := range overlays {
		if !all && !needed[o.Name] {
			continue
		}
		l, err := readOverlay(v.ctx, c, o)
		if err != nil {
			return nil, v.failed("export", o.Name, err)
		}
		h.overlays = append(h.overlays, l)
	}
	return h, nil
}
