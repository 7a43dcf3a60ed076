// Command manual makes the manual page me.left4(5), packaging/man/me.left4.5, of what it describes: the interface XML
// with its comments, the polkit actions, and the words that only people can write, in me.left4.5.in. Examples come from
// samples.go.
package main

//go:generate go run .

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"left4.me/left4/dbus/doc"
	"left4.me/left4/dbus/names"
)

// Where everything lies, seen from this directory, in which `go generate` and `go test` run.
const (
	page      = "../man/me.left4.5"
	words     = "me.left4.5.in"
	contracts = "../../dbus/*.xml"
	policy    = "../polkit/me.left4.policy"
)

func main() {
	text, err := manual()
	if err == nil {
		err = os.WriteFile(page, text, 0o644)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "manual: error: cannot make %s: %v\n", page, err)
		os.Exit(1)
	}
}

// manual returns the page.
func manual() ([]byte, error) {
	m := source{interfaces: map[string]doc.Interface{}}
	if err := m.read(); err != nil {
		return nil, err
	}
	t, err := template.New(words).Option("missingkey=error").Funcs(template.FuncMap{
		"listing":  m.listing,
		"about":    m.about,
		"methods":  m.methods,
		"signals":  m.signals,
		"props":    m.properties,
		"actions":  m.askedActions,
		"examples": m.examples,
		"literal":  literal,
		"message":  message,
	}).ParseFiles(words)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, nil); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// source is what the page is made of.
type source struct {
	interfaces map[string]doc.Interface
	actions    []action
}

type action struct {
	ID          string `xml:"id,attr"`
	Description string `xml:"description"`
	Implies     string `xml:"annotate"`
}

func (m *source) read() error {
	files, err := filepath.Glob(contracts)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("there is no " + contracts)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		all, err := doc.Parse(text)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, i := range all {
			m.interfaces[i.Name] = i
		}
	}
	text, err := os.ReadFile(policy)
	if err != nil {
		return err
	}
	var shipped struct {
		Actions []action `xml:"action"`
	}
	if err := xml.Unmarshal(text, &shipped); err != nil {
		return fmt.Errorf("%s: %w", policy, err)
	}
	m.actions = shipped.Actions
	return nil
}

// find is the interface of a name in the template.
func (m *source) find(name string) (doc.Interface, error) {
	i, ok := m.interfaces[name]
	if !ok {
		return i, fmt.Errorf("there is no interface %s", name)
	}
	return i, nil
}

// message is the MESSAGE_ID= of a kind of journal entry.
func message(kind string) (string, error) {
	id, ok := map[string]string{"call": names.MessageCall, "job": names.MessageJob, "state": names.MessageState}[kind]
	if !ok {
		return "", fmt.Errorf("there is no message %s", kind)
	}
	return id, nil
}

// listing is an object with its interfaces as introspection shows them; all is written out but the standard ones, of which
// the others hold only their names.
func (m *source) listing(path string, wanted ...string) (string, error) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("node %s {", path)
	for _, name := range wanted {
		short, isShort := strings.CutSuffix(name, "…")
		if isShort {
			line("  interface %s { ... };", short)
			continue
		}
		i, err := m.find(name)
		if err != nil {
			return "", err
		}
		line("  interface %s {", name)
		for n, part := range [][]doc.Member{i.Methods, i.Signals} {
			if len(part) > 0 {
				line("    %s:", []string{"methods", "signals"}[n])
			}
			for _, member := range part {
				var args []string
				for _, a := range member.Args {
					args = append(args, strings.TrimSpace(fmt.Sprintf("%-3s %s %s", a.Direction, a.Type, a.Name)))
				}
				head := "      " + member.Name + "("
				line("%s%s);", head, strings.Join(args, ",\n"+strings.Repeat(" ", len(head))))
			}
		}
		if len(i.Properties) > 0 {
			line("    properties:")
		}
		for _, p := range i.Properties {
			if p.Emits != "true" {
				line("      @org.freedesktop.DBus.Property.EmitsChangedSignal(%q)", p.Emits)
			}
			line("      %s %s %s;", map[string]string{"read": "readonly"}[p.Access], p.Type, p.Name)
		}
		line("  };")
	}
	line("};")
	return literal(b.String()), nil
}

// about is what is told of an interface as a whole.
func (m *source) about(name string) (string, error) {
	i, err := m.find(name)
	return paragraphs(i.Text), err
}

func (m *source) methods(name string) (string, error) {
	i, err := m.find(name)
	var b strings.Builder
	b.WriteString(".Bl -tag -width Ds\n")
	for _, method := range i.Methods {
		fmt.Fprintf(&b, ".It Fn %s\n%s%s", method.Name, paragraphs(method.Text), arguments(method.Args))
		if method.Errors != "" {
			b.WriteString(".Pp\n" + prose("Errors: "+method.Errors+"."))
		}
		switch asked := method.Action(); {
		case asked == "":
			b.WriteString(".Pp\nOpen to every local user.\n")
		default:
			b.WriteString(".Pp\n" + prose("Action: "+method.Polkit+"."))
		}
	}
	b.WriteString(".El\n")
	return b.String(), err
}

func (m *source) signals(name string) (string, error) {
	i, err := m.find(name)
	var b strings.Builder
	b.WriteString(".Bl -tag -width Ds\n")
	for _, signal := range i.Signals {
		fmt.Fprintf(&b, ".It Fn %s\n%s%s", signal.Name, paragraphs(signal.Text), arguments(signal.Args))
	}
	b.WriteString(".El\n")
	return b.String(), err
}

// arguments is the list of a method's or signal's arguments.
func arguments(args []doc.Arg) string {
	if len(args) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(".Bl -tag -width Ds -compact\n")
	for _, a := range args {
		fmt.Fprintf(&b, ".It Fa %s Pq %s\n%s", a.Name, strings.TrimSpace(a.Direction+" "+a.Type), prose(sentence(upper(a.Text))))
	}
	b.WriteString(".El\n")
	return b.String()
}

func (m *source) properties(name string) (string, error) {
	i, err := m.find(name)
	var b strings.Builder
	b.WriteString(".Bl -tag -width Ds\n")
	for _, p := range i.Properties {
		constant := ""
		if p.Emits == "const" {
			constant = ", constant"
		}
		fmt.Fprintf(&b, ".It Va %s Pq %s%s\n%s", p.Name, p.Type, constant, paragraphs(p.Text))
	}
	b.WriteString(".El\n")
	return b.String(), err
}

// askedActions are all actions, each with the methods that ask for it.
func (m *source) askedActions() string {
	var b strings.Builder
	b.WriteString(".Bl -tag -width Ds\n")
	for _, a := range m.actions {
		var by []string
		for _, name := range []string{names.Manager, names.Instance, names.Blueprint, names.Overlay, names.Job} {
			for _, method := range m.interfaces[name].Methods {
				if slices.Contains(strings.FieldsFunc(method.Polkit, func(r rune) bool { return r == ' ' || r == ';' || r == ',' }), a.ID) {
					by = append(by, strings.TrimPrefix(name, "me.left4.")+"."+method.Name)
				}
			}
		}
		use := "Nothing asks for it yet."
		switch {
		case a.Implies != "":
			use = "Implies all of the others."
		case len(by) > 0:
			use = "For " + strings.Join(by, ", ") + "."
		}
		fmt.Fprintf(&b, ".It Li %s\n%s", a.ID, prose(a.Description+". "+use))
	}
	b.WriteString(".El\n")
	return b.String()
}
