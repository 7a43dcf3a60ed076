package ctl

import (
	"context"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

func cloneFlags(v *invocation, fs *pflag.FlagSet) {
	fs.BoolVar(&v.files, "files", false, "copy what its server wrote too; it must be stopped")
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
	if !v.files {
		return nil
	}
	return v.copyFiles(c, from, name)
}

// copyFiles fills an instance that was just created. If that fails it goes again.
func (v *invocation) copyFiles(c *client.Client, from, name string) error {
	job, err := c.InitializeInstance(v.ctx, name, client.Config{}, client.InitializeOptions{FilesFrom: from})
	if err != nil {
		err = v.failed("initialize", name, err)
	} else if err = v.wait("initialize", name, job, false); err != nil {
		info, unknown := job.Info(context.WithoutCancel(v.ctx))
		if unknown != nil || !info.Ended() || info.State == client.JobDone {
			return err // it goes on, or went well, for all we know
		}
	}
	if err == nil {
		return nil
	}
	ctx := context.WithoutCancel(v.ctx)
	job, undo := c.DeleteInstance(ctx, name, client.JobOptions{})
	if undo == nil {
		_, undo = job.Wait(ctx, func(client.JobInfo) {})
	}
	if undo != nil {
		v.complain(cannot("delete", name+" again", undo))
		v.hint("it is there without files: left4ctl delete " + name)
	} else {
		v.say("%s: deleted again", name)
	}
	return err
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
