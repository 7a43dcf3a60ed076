package client

import "context"

// Permission tells whether a caller may do something.
type Permission string

// What GetPermissions answers. A word that is none of these comes from a newer left4d: take it for PermissionNo.
const (
	PermissionYes  Permission = "yes"
	PermissionAuth Permission = "auth" // somebody would have to authenticate first, with a password mostly
	PermissionNo   Permission = "no"
)

// GetPermissions returns what the caller may do now: each action of polkit, as me.left4.instance.start, and the answer.
// Actions about instances are asked for the one that is named, or for instances on the whole where instance is "". Nobody
// is ever asked for a password. Errors: ErrInvalidName, ErrNoSuchInstance.
func (c *Client) GetPermissions(ctx context.Context, instance string) (map[string]Permission, error) {
	var permissions map[string]Permission
	err := c.manager(ctx, "GetPermissions", []any{instance}, &permissions)
	return permissions, err
}
