// Package doc reads the comments of the interface XML, which are the manual of the bus face.
//
// The comment of an interface is the first within it; that of a member stands before the member. A comment is text, and
// then, each from the beginning of a line on and over as many lines as it takes,
//
//	@name: what the argument is, in the order of the arguments
//	errors: InvalidName, InUse (when that is), Busy
//	polkit: the action, or none; what else there is to know about it
//
// Blank lines divide the text into paragraphs. Lines of a paragraph that are set in by two are rows of a table, with a
// name, a type and a text; what is set in more goes on with the row.
package doc

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Interface is one interface with what is told of it.
type Interface struct {
	Name       string
	Text       []Paragraph
	Methods    []Member
	Signals    []Member
	Properties []Property
}

// Paragraph is a text, and the table that it introduces.
type Paragraph struct {
	Text string
	Rows []Row
}

// Row is a key of a dictionary, for example.
type Row struct{ Name, Type, Text string }

// Member is a method or a signal.
type Member struct {
	Name   string
	Text   []Paragraph
	Args   []Arg
	Errors string
	Polkit string
}

// Arg is an argument; its direction is empty in a signal.
type Arg struct{ Name, Type, Direction, Text string }

// Property is a property; Emits is how its changes are told.
type Property struct {
	Name, Type, Access, Emits string
	Text                      []Paragraph
}

// Parse reads one file. Its error names all that is not told, and all that is told of nothing.
func Parse(text []byte) ([]Interface, error) {
	p := parser{decoder: xml.NewDecoder(strings.NewReader(string(text)))}
	for {
		token, err := p.decoder.Token()
		if err == io.EOF {
			return p.all, errors.Join(p.wrong...)
		}
		if err != nil {
			return nil, err
		}
		switch t := token.(type) {
		case xml.Comment:
			p.comments = append(p.comments, string(t))
		case xml.StartElement:
			p.start(t)
		case xml.EndElement:
			p.end(t.Name.Local)
		}
	}
}

type parser struct {
	decoder  *xml.Decoder
	all      []Interface
	member   *Member   // that arguments belong to
	property *Property // that annotations belong to
	told     comment
	comments []string // that have come since the last element
	wrong    []error
}

func (p *parser) start(e xml.StartElement) {
	attribute := func(name string) string {
		for _, a := range e.Attr {
			if a.Name.Local == name {
				return a.Value
			}
		}
		return ""
	}
	name := attribute("name")
	if e.Name.Local == "interface" {
		if len(p.comments) > 0 {
			p.fail("a comment before %s is not part of it: introspection does not show it", name)
		}
		p.comments = nil
		p.all = append(p.all, Interface{Name: name})
		return
	}
	if len(p.all) == 0 {
		return
	}
	i := &p.all[len(p.all)-1]
	switch e.Name.Local {
	case "method":
		i.Methods = append(i.Methods, Member{Name: name})
		p.member = &i.Methods[len(i.Methods)-1]
		p.begin(i)
		p.member.Text, p.member.Errors, p.member.Polkit = p.told.text, p.told.errors, p.told.polkit
	case "signal":
		i.Signals = append(i.Signals, Member{Name: name})
		p.member = &i.Signals[len(i.Signals)-1]
		p.begin(i)
		p.member.Text = p.told.text
	case "property":
		i.Properties = append(i.Properties, Property{Name: name, Type: attribute("type"), Access: attribute("access")})
		p.property = &i.Properties[len(i.Properties)-1]
		p.begin(i)
		p.property.Text = p.told.text
	case "arg":
		if p.member == nil {
			p.fail("%s has an argument %s outside of its methods and signals", i.Name, name)
			return
		}
		arg := Arg{Name: name, Type: attribute("type"), Direction: attribute("direction")}
		if len(p.told.args) == 0 || p.told.args[0].Name != name {
			p.fail("%s.%s: nothing is told of its argument %s, or not in its place", i.Name, p.member.Name, name)
		} else {
			arg.Text = p.told.args[0].Text
			p.told.args = p.told.args[1:]
		}
		p.member.Args = append(p.member.Args, arg)
	case "annotation":
		if p.property != nil && name == "org.freedesktop.DBus.Property.EmitsChangedSignal" {
			p.property.Emits = attribute("value")
		}
	}
}

func (p *parser) fail(format string, args ...any) {
	p.wrong = append(p.wrong, fmt.Errorf(format, args...))
}

// begin takes the comment of a member, which is the last one before it; the one before that is the interface's.
func (p *parser) begin(i *Interface) {
	first := len(i.Methods)+len(i.Signals)+len(i.Properties) == 1
	name := i.Name + "." + p.name()
	p.told = comment{}
	if n := len(p.comments); n > 0 {
		p.told = read(p.comments[n-1])
		p.comments = p.comments[:n-1]
	}
	if len(p.told.text) == 0 {
		p.fail("nothing is told of %s", name)
	}
	switch {
	case first && len(p.comments) == 1:
		i.Text = read(p.comments[0]).text
	case first:
		p.fail("%d comments are told of %s, not 1", len(p.comments), i.Name)
	case len(p.comments) > 0:
		p.fail("%d comments before that of %s are told of nothing", len(p.comments), name)
	}
	p.comments = nil
}

func (p *parser) name() string {
	switch {
	case p.member != nil:
		return p.member.Name
	case p.property != nil:
		return p.property.Name
	}
	return "" // one within another
}

func (p *parser) end(element string) {
	switch element {
	case "method", "signal", "property":
		for _, arg := range p.told.args {
			p.fail("%s.%s has no argument %s", p.all[len(p.all)-1].Name, p.name(), arg.Name)
		}
		if element != "method" && p.told.errors+p.told.polkit != "" {
			p.fail("%s.%s is called by nobody, and so has neither errors nor polkit", p.all[len(p.all)-1].Name, p.name())
		}
		p.member, p.property = nil, nil
	case "interface":
		if len(p.comments) > 0 {
			p.fail("%d comments at the end of %s are told of nothing", len(p.comments), p.all[len(p.all)-1].Name)
		}
	}
}

// comment is what one says.
type comment struct {
	text           []Paragraph
	args           []Arg
	errors, polkit string
}

var (
	item = regexp.MustCompile(`^(@[a-z_]+|errors|polkit): (.*)$`)
	row  = regexp.MustCompile(`^  (\S+) +(\S+) +(.*)$`)
)

func read(text string) comment {
	var c comment
	var to *string // what the next line goes on with
	inRow := false
	for _, line := range dedent(text) {
		m, r := item.FindStringSubmatch(line), row.FindStringSubmatch(line)
		switch {
		case line == "":
			to = nil
			continue
		case m != nil && m[1] == "errors":
			to = &c.errors
			line = m[2]
		case m != nil && m[1] == "polkit":
			to = &c.polkit
			line = m[2]
		case m != nil:
			c.args = append(c.args, Arg{Name: m[1][1:]})
			to = &c.args[len(c.args)-1].Text
			line = m[2]
		case r != nil && to != nil && len(c.text) > 0:
			p := &c.text[len(c.text)-1]
			p.Rows = append(p.Rows, Row{Name: r[1], Type: r[2]})
			to, inRow = &p.Rows[len(p.Rows)-1].Text, true
			line = r[3]
		case to == nil, inRow && !strings.HasPrefix(line, " "):
			c.text = append(c.text, Paragraph{})
			to, inRow = &c.text[len(c.text)-1].Text, false
		}
		*to = strings.TrimSpace(*to + " " + strings.TrimSpace(line))
	}
	return c
}

// dedent gives the lines of a comment without what all have before them.
func dedent(text string) []string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	least := -1
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " \t")
		if in := len(lines[i]) - len(strings.TrimLeft(lines[i], " ")); i > 0 && lines[i] != "" && (least < 0 || in < least) {
			least = in
		}
	}
	for i := range lines {
		if i > 0 && lines[i] != "" {
			lines[i] = lines[i][least:]
		}
	}
	return lines
}

var aside = regexp.MustCompile(` \([^)]*\)`)

// ErrorNames are the names in a list of errors.
func (m Member) ErrorNames() []string {
	if m.Errors == "" {
		return nil
	}
	return strings.Split(aside.ReplaceAllString(m.Errors, ""), ", ")
}

// Action is what polkit is asked about, "" where it is not asked.
func (m Member) Action() string {
	action, _, _ := strings.Cut(m.Polkit, ";")
	if action == "none" {
		return ""
	}
	return action
}
