package client

import (
	"context"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"left4.me/left4/dbus/names"
)

// BlueprintInfo is all that left4d tells anybody of one blueprint.
type BlueprintInfo struct {
	Name      string
	Owner     uint32    // uid of who created it
	OwnerName string    // the login name of that user on left4d's machine; empty where there was none
	Overlays  []Overlay // highest precedence first
	Limits    Limits
	Instances []string // that are bound to it, by name
	Object    dbus.ObjectPath
}

// CreateBlueprint defines a blueprint. Of a Config it takes Overlays, Arguments, Lines and Limits; any other key is an
// error. Errors: ErrInvalidName, ErrInvalidArgument, ErrBlueprintExists, ErrNoSuchOverlay, ErrAccessDenied.
func (c *Client) CreateBlueprint(ctx context.Context, name string, config Config) (dbus.ObjectPath, error) {
	var object dbus.ObjectPath
	err := c.manager(ctx, "CreateBlueprint", []any{name, config.variants(), noOptions()}, &object)
	return object, err
}

// UpdateBlueprint changes those keys of a blueprint that config has. Its instances have them from their next start,
// limits at once. A list and the limits are replaced as a whole.
// Errors: ErrNoSuchBlueprint, ErrInvalidArgument, ErrNoSuchOverlay, ErrAccessDenied.
func (c *Client) UpdateBlueprint(ctx context.Context, name string, config Config) error {
	var object dbus.ObjectPath
	return c.manager(ctx, "UpdateBlueprint", []any{name, config.variants(), noOptions()}, &object)
}

// DeleteBlueprint removes a blueprint that no instance is bound to. Deleting what is not there succeeds.
// Errors: ErrInUse (the message names its users), ErrAccessDenied.
func (c *Client) DeleteBlueprint(ctx context.Context, name string) error {
	return c.manager(ctx, "DeleteBlueprint", []any{name, noOptions()})
}

// GetBlueprint returns all that is known of one blueprint, or ErrNoSuchBlueprint.
func (c *Client) GetBlueprint(ctx context.Context, name string) (BlueprintInfo, error) {
	object, err := c.object(ctx, "GetBlueprint", name)
	if err != nil {
		return BlueprintInfo{}, err
	}
	p, err := c.properties(ctx, object, names.Blueprint)
	if err != nil {
		return BlueprintInfo{}, gone(err, ErrNoSuchBlueprint, "blueprint "+name)
	}
	return blueprintInfo(object, p)
}

func blueprintInfo(object dbus.ObjectPath, p *properties) (BlueprintInfo, error) {
	b := BlueprintInfo{Object: object}
	p.get("Name", &b.Name)
	p.get("Owner", &b.Owner)
	p.get("OwnerName", &b.OwnerName)
	p.get("Overlays", &b.Overlays)
	p.get("Instances", &b.Instances)
	b.Limits = p.limits("Limits")
	return b, p.err
}

// limits leaves out those that it does not know: what tells of something goes on telling the rest.
func (p *properties) limits(name string) Limits {
	values := map[string]dbus.Variant{}
	p.get(name, &values)
	l, _, err := decodeLimits(values)
	if p.err == nil {
		p.err = err
	}
	return l
}

// GetBlueprintConfig returns the definition of a blueprint, as CreateBlueprint accepts it back.
// Errors: ErrNoSuchBlueprint, ErrAccessDenied; and one if this package does not know all of its keys.
func (c *Client) GetBlueprintConfig(ctx context.Context, name string) (Config, error) {
	var values map[string]dbus.Variant
	if err := c.of(ctx, kindBlueprint, name, "GetConfig", nil, &values); err != nil {
		return Config{}, err
	}
	return decodeConfig(values)
}

// ListBlueprints returns all blueprints, by name.
func (c *Client) ListBlueprints(ctx context.Context) ([]BlueprintInfo, error) {
	all, err := managed(ctx, c, names.Blueprint, blueprintInfo)
	slices.SortFunc(all, func(a, b BlueprintInfo) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

// BlueprintConflicts returns the paths that more than one overlay of a blueprint holds; more tells that left4d left
// some out. Errors: ErrNoSuchBlueprint, ErrAccessDenied.
func (c *Client) BlueprintConflicts(ctx context.Context, name string) (conflicts []Conflict, more bool, err error) {
	err = c.of(ctx, kindBlueprint, name, "ListConflicts", []any{noOptions()}, &conflicts, &more)
	return conflicts, more, err
}

// InstanceConflicts returns the paths that more than one overlay of an instance holds, those of its blueprint
// included; more tells that left4d left some out. Errors: ErrNoSuchInstance, ErrAccessDenied.
func (c *Client) InstanceConflicts(ctx context.Context, name string) (conflicts []Conflict, more bool, err error) {
	err = c.of(ctx, kindInstance, name, "ListConflicts", []any{noOptions()}, &conflicts, &more)
	return conflicts, more, err
}
