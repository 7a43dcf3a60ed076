package ctl

import (
	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

func cloneFlags(v *invocation, fs *pflag.FlagSet) {
	for _, k := range keys {
		if k.name == "port" || k.name == "label" {
			fs.Var(settingFlag{k.value, func(text string) error { return v.settings.set(k, text) }}, k.flag, k.usage)
		}
	}
}

// runClone leaves out of the definition what is to tell an instance from others.
func runClone(v *invocation) error {
	from, name := v.args[0], v.args[1]
	given, err := v.settings.result(client.Limits{})
	if err != nil {
		return err
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	config, err := c.GetInstanceConfig(v.ctx, from)
	if err != nil {
		return v.failed("clone", from, err)
	}
	config.Port, config.Label = given.Port, given.Label
	if _, err := c.CreateInstance(v.ctx, name, config); err != nil {
		return v.failed("create", name, err)
	}
	v.sayCreated(c, name)
	return nil
}

func runRename(v *invocation) error {
	name, label := v.args[0], v.args[1]
	c, err := v.connect()
	if err != nil {
		return err
	}
	if err := c.ConfigureInstance(v.ctx, name, client.Config{Label: &label}, client.ConfigureOptions{}); err != nil {
		return v.failed("rename", name, err)
	}
	if label == "" {
		v.say("%s: has no label", name)
	} else {
		v.say("%s: is labeled %s", name, label)
	}
	return nil
}
