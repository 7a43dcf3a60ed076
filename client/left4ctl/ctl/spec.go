package ctl

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"left4.me/left4/client"
)

// maxSpec bounds a spec file, in bytes.
const maxSpec = 1 << 20

// readSpec reads a spec file: one YAML document with the keys of a definition. It is strict, because what it does not
// understand would be missing on a server without a word. Errors begin with the line and the key; name is the file's.
func readSpec(name string, r io.Reader) (client.Config, error) {
	return readYAML(name, r, maxSpec, parseSpec)
}

// readYAML reads a file of at most limit bytes, a number of MiB.
func readYAML[T any](name string, r io.Reader, limit int, parse func(string) (T, error)) (T, error) {
	var none T
	text, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return none, fmt.Errorf("cannot read %s: %w", name, plain(err))
	}
	if len(text) > limit {
		return none, fmt.Errorf("%s is longer than %d MiB", name, limit>>20)
	}
	parsed, err := parse(string(text))
	if err != nil {
		return none, fmt.Errorf("%s:%w", name, err)
	}
	return parsed, nil
}

func parseSpec(text string) (client.Config, error) {
	var c client.Config
	pairs, err := onlyDocument(text)
	if err != nil {
		return c, err
	}
	for _, p := range pairs {
		if err := p.into(&c, keys); err != nil {
			return c, err
		}
	}
	return c, nil
}

// onlyDocument returns the pairs of a text that is one document, at least one.
func onlyDocument(text string) ([]pair, error) {
	in := yaml.NewDecoder(strings.NewReader(text))
	var document yaml.Node
	if err := in.Decode(&document); err == io.EOF {
		return nil, errors.New("1: is empty")
	} else if err != nil {
		return nil, notYAML(err)
	}
	var second yaml.Node
	if err := in.Decode(&second); err == nil {
		return nil, at(&second, "", "a second document is not allowed")
	} else if err != io.EOF {
		return nil, notYAML(err)
	}
	pairs, err := mapping(document.Content[0], "")
	if err != nil {
		return nil, err
	}
	if len(pairs) == 0 {
		return nil, at(document.Content[0], "", "has no keys")
	}
	return pairs, nil
}

// pair is one key of a mapping with its value.
type pair struct {
	key   string
	value *yaml.Node
	place *yaml.Node // of the key
}

// into sets one of the keys of a definition, or its limits.
func (p pair) into(c *client.Config, keys []key) error {
	if p.key == "limits" {
		return p.limits(c)
	}
	var all []string
	for _, k := range keys {
		all = append(all, k.name)
		if k.name != p.key {
			continue
		}
		texts, err := p.texts(k)
		if err != nil {
			return err
		}
		if k.list {
			// The element that empties a list on a command line.
			if err := k.set(c, ""); err != nil {
				return at(p.value, p.key, err.Error())
			}
		}
		for _, t := range texts {
			if err := t.set(k, c); err != nil {
				return at(t.place, p.key, err.Error())
			}
		}
		return nil
	}
	return unknown(p, append(all, "limits"))
}

// text is one value of a spec, ready for a key.
type text struct {
	place   *yaml.Node
	value   string
	overlay *client.Overlay // in place of value
}

func (t text) set(k key, c *client.Config) error {
	switch {
	case t.overlay != nil:
		c.Overlays = append(c.Overlays, *t.overlay)
		return nil
	case k.name == "config" && t.value == "":
		c.Lines = append(c.Lines, "") // on a command line it would empty the list
		return nil
	case k.list && t.value == "":
		return errors.New("an empty element is not allowed")
	}
	return k.set(c, t.value)
}

// texts reads the value of a key: one text, or a list of them.
func (p pair) texts(k key) ([]text, error) {
	if !k.list {
		if k.name == "port" {
			if p.value.ShortTag() != "!!int" {
				return nil, at(p.value, p.key, "must be a number, not "+kindOf(p.value))
			}
			return []text{{place: p.value, value: p.value.Value}}, nil
		}
		s, err := str(p.value, p.key, false)
		return []text{{place: p.value, value: s}}, err
	}
	if p.value.Kind != yaml.SequenceNode {
		return nil, at(p.value, p.key, "must be a list, not "+kindOf(p.value))
	}
	var all []text
	for _, n := range p.value.Content {
		if k.name == "overlays" {
			o, err := overlay(n)
			if err != nil {
				return nil, err
			}
			all = append(all, text{place: n, overlay: &o})
			continue
		}
		// A bare number is what people write for "+sv_lan 0", and its text is never in doubt.
		s, err := str(n, p.key, true)
		if err != nil {
			return nil, err
		}
		all = append(all, text{place: n, value: s})
	}
	return all, nil
}

func overlay(n *yaml.Node) (client.Overlay, error) {
	var o client.Overlay
	if n.Kind != yaml.MappingNode {
		s, err := str(n, "overlays", false)
		if err == nil && s == "" {
			err = at(n, "overlays", "an empty name is not allowed")
		}
		return client.Overlay{Name: s}, err
	}
	pairs, err := mapping(n, "overlays")
	if err != nil {
		return o, err
	}
	for _, p := range pairs {
		switch p.key {
		case "path":
			o.Name, err = str(p.value, "overlays.path", false)
		case "alias":
			o.Alias, err = str(p.value, "overlays.alias", false)
		default:
			err = unknown(pair{"overlays." + p.key, p.value, p.place}, []string{"overlays.path", "overlays.alias"})
		}
		if err != nil {
			return o, err
		}
	}
	if o.Name == "" {
		return o, at(n, "overlays", "path is missing")
	}
	return o, nil
}

func (p pair) limits(c *client.Config) error {
	pairs, err := mapping(p.value, "limits")
	if err != nil {
		return err
	}
	c.Limits = &client.Limits{}
	for _, p := range pairs {
		where := "limits." + p.key
		l, err := findLimit(p.key)
		if err != nil {
			return at(p.place, "limits", err.Error())
		}
		value, err := str(p.value, where, true)
		if err != nil {
			return err
		}
		if err := l.set(c.Limits, value); err != nil {
			return at(p.value, where, err.Error())
		}
	}
	return nil
}

// mapping returns the pairs of a mapping, each key once.
func mapping(n *yaml.Node, where string) ([]pair, error) {
	if n.Kind != yaml.MappingNode {
		return nil, at(n, where, "must be a mapping of keys to values, not "+kindOf(n))
	}
	var pairs []pair
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		name, err := str(k, where, false)
		if err != nil {
			return nil, err
		}
		if seen[name] {
			return nil, at(k, name, "is given twice")
		}
		seen[name] = true
		pairs = append(pairs, pair{name, n.Content[i+1], k})
	}
	return pairs, nil
}

// str is the text of a scalar. Anchors and aliases are refused everywhere, because a few lines of them can stand for
// gigabytes.
func str(n *yaml.Node, where string, numbers bool) (string, error) {
	if n.Kind == yaml.ScalarNode {
		switch n.ShortTag() {
		case "!!str":
			return n.Value, nil
		case "!!int", "!!float":
			if numbers {
				return n.Value, nil
			}
		}
	}
	hint := ""
	if n.Kind == yaml.ScalarNode && n.Value != "" {
		hint = fmt.Sprintf(": write %s in quotes", strconv.Quote(n.Value))
	}
	return "", at(n, where, "must be text, not "+kindOf(n)+hint)
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias (they are not supported)"
	}
	switch n.ShortTag() {
	case "!!str":
		return "text"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!null":
		return "nothing"
	case "!!timestamp":
		return "a date"
	}
	return "a value of type " + n.Tag
}

func unknown(p pair, known []string) error {
	message := "unknown key"
	if near := nearest(p.key, known); near != "" {
		message += ", did you mean " + near + "?"
	}
	return at(p.place, p.key, message)
}

// misplaced is an error at a line of a file, about a key of it or about all that is there.
type misplaced struct {
	line           int
	where, message string
}

func at(n *yaml.Node, where, message string) error { return &misplaced{n.Line, where, message} }

func (m *misplaced) Error() string {
	where := m.where
	if where != "" {
		where += ": "
	}
	return fmt.Sprintf("%d: %s%s", m.line, where, m.message)
}

// within tells that the key which an error is about is one of what key stands for.
func within(key string, err error) error {
	if m, ok := err.(*misplaced); ok {
		m.where = strings.TrimSuffix(key+"."+m.where, ".")
	}
	return err
}

// notYAML turns "yaml: line 3: did not find …" into "3: did not find …".
func notYAML(err error) error {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	if line, rest, ok := strings.Cut(strings.TrimPrefix(message, "line "), ": "); ok {
		if _, err := strconv.Atoi(line); err == nil {
			return fmt.Errorf("%s: %s", line, rest)
		}
	}
	return fmt.Errorf("1: %s", message)
}
