package ctl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"left4.me/left4/client"
)

func runBlueprintCreate(v *invocation) error {
	name := v.args[0]
	config, err := v.settings.result(client.Limits{})
	if err != nil {
		return err
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	if _, err := c.CreateBlueprint(v.ctx, name, config); err != nil {
		return v.failed("create", name, err)
	}
	v.say("%s: created", name)
	return nil
}

func blueprintConfigureFlags(v *invocation, fs *pflag.FlagSet) {
	blueprintFlags(v, fs)
	fs.BoolVar(&v.dryRun, "dry-run", false, "print what would change, and change nothing")
}

func runBlueprintConfigure(v *invocation) error {
	given, err := v.assignments()
	if err != nil {
		return err
	}
	changes, err := v.settings.result(client.Limits{})
	if err != nil {
		return err
	}
	if changes.Empty() {
		return usagef("blueprint configure needs something to change")
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, unmatched := v.named("configure", aBlueprint, given)
	if v.dryRun {
		return firstOf(v.wouldConfigure(c, names, changes), unmatched)
	}
	done, err := v.each("configure", names, func(name string) error {
		changes := changes
		if v.settings.changesLimits() {
			before, err := c.GetBlueprintConfig(v.ctx, name)
			if err != nil {
				return err
			}
			if changes, err = v.changed(before); err != nil {
				return err
			}
		}
		return c.UpdateBlueprint(v.ctx, name, changes)
	})
	for _, name := range done {
		v.say("%s: configured", name)
	}
	if len(done) > 0 && !v.quiet {
		// That it is done is certain without an answer.
		all, _ := c.InspectInstances(v.ctx)
		var pending []string
		for _, i := range all {
			if i.PendingRestart && slices.Contains(done, i.Blueprint) {
				pending = append(pending, i.Name)
			}
		}
		if len(pending) > 0 {
			v.hint("running servers have it from their next start: left4ctl restart " + strings.Join(pending, " "))
		}
	}
	return firstOf(err, unmatched)
}

// changed are the changes to what was, with the limits as a whole, as the bus takes them.
func (v *invocation) changed(before client.Config) (client.Config, error) {
	var limits client.Limits
	if before.Limits != nil {
		limits = *before.Limits
	}
	return v.settings.result(limits)
}

// wouldConfigure tells what a change would mean for each blueprint.
func (v *invocation) wouldConfigure(c *client.Client, names []string, changes client.Config) error {
	answers := ask(v, names, func(name string) (client.Config, error) { return c.GetBlueprintConfig(v.ctx, name) })
	result := refusals(v, "configure", answers)
	told := false
	for _, a := range answers {
		if a.err != nil {
			continue
		}
		changes := changes
		if v.settings.changesLimits() {
			var err error
			if changes, err = v.changed(a.value); err != nil {
				return err
			}
		}
		if len(names) > 1 {
			if told {
				fmt.Fprintln(v.stdout)
			}
			told = true
			fmt.Fprintln(v.stdout, clean(a.name))
		}
		if err := v.wouldChange(c, a.name, a.value, changes); err != nil {
			return err
		}
	}
	return result
}

// wouldChange prints the lines in which a blueprint would differ, and what it would mean for what runs.
func (v *invocation) wouldChange(c *client.Client, name string, before, changes client.Config) error {
	lines := differences(before, changes)
	for _, line := range lines {
		fmt.Fprintln(v.stdout, clean(line))
	}
	if len(lines) == 0 {
		v.say("%s: no change", name)
		return nil
	}
	bound, err := boundTo(v, c, name)
	if err != nil {
		return v.failed("show the instances of", name, err)
	}
	var live []string
	for _, i := range bound {
		if i.State != "stopped" && i.State != "failed" {
			live = append(live, i.Name)
		}
	}
	if len(live) == 0 {
		v.say("%s: no instance of it runs", name)
		return nil
	}
	// Limits reach what runs at once.
	changes.Limits = nil
	if len(differences(before, changes)) > 0 {
		v.say("%s: would ask for a restart: %s", name, strings.Join(live, ", "))
	} else {
		v.say("%s: would have it at once: %s", name, strings.Join(live, ", "))
	}
	return nil
}

// boundTo are the instances of a blueprint.
func boundTo(v *invocation, c *client.Client, name string) ([]client.Instance, error) {
	all, err := c.InspectInstances(v.ctx)
	return slices.DeleteFunc(all, func(i client.Instance) bool { return i.Blueprint != name }), err
}

// differences are the lines in which a definition would differ: "key: old → new", and each element of a list that goes
// or comes behind - and +.
func differences(before, changes client.Config) []string {
	var lines []string
	if changes.Overlays != nil {
		lines = append(lines, listDifference("overlays", overlayTexts(before.Overlays), overlayTexts(changes.Overlays))...)
	}
	if changes.Arguments != nil {
		lines = append(lines, listDifference("arguments", before.Arguments, changes.Arguments)...)
	}
	if changes.Lines != nil {
		lines = append(lines, listDifference("config", before.Lines, changes.Lines)...)
	}
	if changes.Limits != nil {
		var old client.Limits
		if before.Limits != nil {
			old = *before.Limits
		}
		for _, l := range limits {
			if from, to := l.show(old), l.show(*changes.Limits); from != to {
				lines = append(lines, fmt.Sprintf("%s: %s → %s", l.name, orDash(from), orDash(to)))
			}
		}
	}
	return lines
}

func overlayTexts(list []client.Overlay) []string {
	var all []string
	for _, o := range list {
		all = append(all, shownOverlay(o))
	}
	return all
}

// listDifference is the shortest way from one list to the other, with the elements that stay left out; nil if they are
// the same.
func listDifference(key string, from, to []string) []string {
	if slices.Equal(from, to) {
		return nil
	}
	// common[i][j] is how many elements from[i:] and to[j:] have in common, in their order.
	common := make([][]int, len(from)+1)
	for i := range common {
		common[i] = make([]int, len(to)+1)
	}
	for i := len(from) - 1; i >= 0; i-- {
		for j := len(to) - 1; j >= 0; j-- {
			if from[i] == to[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	lines := []string{key + ":"}
	i, j := 0, 0
	for i < len(from) || j < len(to) {
		switch {
		case i < len(from) && j < len(to) && from[i] == to[j]:
			i, j = i+1, j+1
		case j == len(to) || i < len(from) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, "- "+from[i])
			i++
		default:
			lines = append(lines, "+ "+to[j])
			j++
		}
	}
	return lines
}

// blueprintJSON is a blueprint in blueprint list --json and, with the second half, in blueprint show --json.
type blueprintJSON struct {
	Name      string            `json:"name"`
	Owner     uint32            `json:"owner"`
	OwnerName string            `json:"owner_name"`
	Overlays  []overlayJSON     `json:"overlays"`
	Limits    map[string]string `json:"limits"`
	Instances []string          `json:"instances"`
	Object    string            `json:"object"`
}

type blueprintShowJSON struct {
	blueprintJSON
	Arguments []string `json:"arguments"`
	Config    []string `json:"config"`
}

func blueprintAsJSON(b client.BlueprintInfo) blueprintJSON {
	j := blueprintJSON{
		Name: b.Name, Owner: b.Owner, OwnerName: b.OwnerName, Overlays: overlaysAsJSON(b.Overlays), Limits: map[string]string{},
		Instances: append([]string{}, b.Instances...), Object: string(b.Object),
	}
	names, values := shownLimits(b.Limits)
	for n := range names {
		j.Limits[names[n]] = values[n]
	}
	return j
}

func overlaysAsJSON(list []client.Overlay) []overlayJSON {
	all := make([]overlayJSON, 0, len(list))
	for _, o := range list {
		all = append(all, overlayJSON(o))
	}
	return all
}

func runBlueprintList(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	list, err := c.ListBlueprints(v.ctx)
	if err != nil {
		return v.failed("list the blueprints", "", err)
	}
	if v.json {
		all := make([]blueprintJSON, 0, len(list))
		for _, b := range list {
			all = append(all, blueprintAsJSON(b))
		}
		return printJSON(v.stdout, all)
	}
	var rows [][]string
	for _, b := range list {
		rows = append(rows, []string{b.Name, count(uint64(len(b.Instances))), strings.Join(overlayTexts(b.Overlays), ", ")})
	}
	v.table([]string{"NAME", "INSTANCES", "OVERLAYS"}, rows, "blueprint")
	return nil
}

// blueprintShown is a blueprint with what not everybody may see of it: nil is told from an empty list.
type blueprintShown struct {
	client.BlueprintInfo
	config *client.Config
}

func runBlueprintShow(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, err := v.selected(aBlueprint, v.args)
	if err != nil {
		return err
	}
	c.NoInteraction = true // what not everybody may see is only a part of it
	return show(v, names, func(name string) (blueprintShown, error) {
		b, err := c.GetBlueprint(v.ctx, name)
		if err != nil {
			return blueprintShown{}, err
		}
		config, err := c.GetBlueprintConfig(v.ctx, name)
		if client.IsAccessDenied(err) {
			return blueprintShown{b, nil}, nil
		}
		return blueprintShown{b, &config}, err
	}, func(b blueprintShown) any {
		j := blueprintShowJSON{blueprintJSON: blueprintAsJSON(b.BlueprintInfo)}
		if b.config != nil {
			j.Arguments, j.Config = append([]string{}, b.config.Arguments...), append([]string{}, b.config.Lines...)
		}
		return j
	}, v.showBlueprint)
}

func (v *invocation) showBlueprint(b blueprintShown) {
	names, values := shownLimits(b.Limits)
	fmt.Fprintln(v.stdout, clean(b.Name))
	rows := [][2]string{
		{"Overlays", shownOverlays(b.Overlays)},
		{"Limits", assigned(names, values)},
		{"Instances", strings.Join(b.Instances, ", ")},
		{"Owner", userName(b.OwnerName, b.Owner)},
	}
	if b.config != nil {
		rows = slices.Insert(rows, 1, [2]string{"Arguments", strings.Join(b.config.Arguments, " ")})
		rows = slices.Insert(rows, 2, many("Config", b.config.Lines)...)
	}
	v.sheet(rows)
}

// many are the rows of a sheet for a list, each element in a row of its own.
func many(name string, list []string) [][2]string {
	if len(list) == 0 {
		return [][2]string{{name, ""}}
	}
	var rows [][2]string
	for n, text := range list {
		if n > 0 {
			name = ""
		}
		rows = append(rows, [2]string{name, text})
	}
	return rows
}

func runBlueprintDelete(v *invocation) error {
	c, err := v.connect()
	if err != nil {
		return err
	}
	names, unmatched := v.named("delete", aBlueprint, v.args)
	done, err := v.each("delete", names, func(name string) error { return c.DeleteBlueprint(v.ctx, name) })
	for _, name := range done {
		v.say("%s: deleted", name)
	}
	return firstOf(err, unmatched)
}
