package ctl

import (
	"maps"
	"slices"
)

type permissionJSON struct {
	Action     string `json:"action"`
	Permission string `json:"permission"`
}

func runPermissions(v *invocation) error {
	name := ""
	if len(v.args) > 0 {
		name = v.args[0]
	}
	c, err := v.connect()
	if err != nil {
		return err
	}
	may, err := c.GetPermissions(v.ctx, name)
	if err != nil {
		verb := "show the permissions"
		if name != "" {
			verb += " for"
		}
		return v.failed(verb, name, err)
	}
	all := make([]permissionJSON, 0, len(may))
	rows := make([][]string, 0, len(may))
	for _, action := range slices.Sorted(maps.Keys(may)) {
		all = append(all, permissionJSON{action, string(may[action])})
		rows = append(rows, []string{action, string(may[action])})
	}
	if v.json {
		return printJSON(v.stdout, all)
	}
	v.table([]string{"ACTION", "PERMISSION"}, rows, "action")
	return nil
}
