// Package keyvalues reads Valve's text format of nested keys (Valve Developer Wiki, "KeyValues"), as mission files,
// appmanifest_*.acf and SteamCMD's app_info_print have it. What it reads may be hostile: nothing panics, and time and memory
// grow with the length of the text alone.
//
//	"mission"
//	{
//		"Name" "L4D2C1" // a comment
//		modes { coop { 1 { Map c1m1_hotel } } }
//		"x360" "1" [$X360]
//	}
//
// #include and #base are keys like others: no other file is read.
package keyvalues

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
)

const (
	// MaxText is how long a text may be, in bytes.
	MaxText = 4 << 20
	// MaxDepth is how deep keys may be nested.
	MaxDepth = 64
	maxNodes = 200_000
)

// Node is a key with a value or with other keys. All texts are UTF-8; what was not is a replacement character.
type Node struct {
	Key   string
	Value string
	// Block tells that it has Children, if only none, and no Value.
	Block    bool
	Children []*Node
}

// Find is the first node below n with that path of keys, upper and lower case being the same; nil if there is none. Of keys that are
// there twice the first one counts, as in the game.
func (n *Node) Find(path ...string) *Node {
	for _, key := range path {
		var next *Node
		for _, c := range n.children() {
			if strings.EqualFold(c.Key, key) {
				next = c
				break
			}
		}
		if n = next; n == nil {
			return nil
		}
	}
	return n
}

// Text is the value of what Find finds, "" if there is none.
func (n *Node) Text(path ...string) string {
	if found := n.Find(path...); found != nil {
		return found.Value
	}
	return ""
}

func (n *Node) children() []*Node {
	if n == nil {
		return nil
	}
	return n.Children
}

// Parse reads a whole text; its keys are the children of the result. With escapes a backslash in quotes means what it
// means in C, as Steam writes it; the game's own files have paths with backslashes that mean themselves. With an error the result is
// what was understood before it.
func Parse(text []byte, escapes bool) (*Node, error) {
	p, err := newParser(text, escapes)
	if err != nil {
		return &Node{Block: true}, err
	}
	err = p.parse(false)
	return p.root, err
}

// First reads the first key of a text with what belongs to it, and leaves what follows alone, which may be anything. It is
// an error if there is none, or if it does not end.
func First(text []byte, escapes bool) (*Node, error) {
	p, err := newParser(text, escapes)
	if err != nil {
		return nil, err
	}
	if err := p.parse(true); err != nil {
		return nil, err
	}
	if len(p.root.Children) == 0 {
		return nil, errors.New("there is no key")
	}
	return p.root.Children[0], nil
}

type parser struct {
	text    string
	at      int
	escapes bool
	root    *Node
	nodes   int
}

func newParser(text []byte, escapes bool) (*parser, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("it has more than %d bytes", MaxText)
	}
	return &parser{text: decode(text), escapes: escapes, root: &Node{Block: true}}, nil
}

// decode makes UTF-8 of what may be UTF-16. A NUL ends a text, as it does for the programs that this was made for.
func decode(text []byte) string {
	var order binary.ByteOrder
	switch {
	case len(text) >= 2 && text[0] == 0xff && text[1] == 0xfe:
		order = binary.LittleEndian
	case len(text) >= 2 && text[0] == 0xfe && text[1] == 0xff:
		order = binary.BigEndian
	}
	s := string(text)
	if order != nil {
		units := make([]uint16, 0, len(text)/2)
		for rest := text[2:]; len(rest) >= 2; rest = rest[2:] {
			units = append(units, order.Uint16(rest))
		}
		s = string(utf16.Decode(units))
	}
	s = strings.TrimPrefix(s, "\ufeff")
	s, _, _ = strings.Cut(s, "\x00")
	return strings.ToValidUTF8(s, "\ufffd")
}

// parse reads all, or the first key alone.
func (p *parser) parse(first bool) error {
	stack := []*Node{p.root}
	var open *Node // the key whose value comes next
	keep := true   // false: a condition has said that it does not count
	for {
		if first && open == nil && len(stack) == 1 && p.nodes > 0 {
			// A condition behind a value still belongs to it.
			if text, kind := p.peek(); kind == condition && !holds(text) {
				p.root.Children = nil
			}
			return nil
		}
		text, kind, err := p.next()
		if err != nil {
			return err
		}
		top := stack[len(stack)-1]
		switch {
		case kind == end && open != nil:
			return p.wrong("%q has no value", short(open.Key))
		case kind == end && len(stack) > 1:
			return p.wrong("%q does not end", short(top.Key))
		case kind == end:
			return nil
		case kind == condition && open != nil:
			keep = keep && holds(text)
		case kind == condition:
			if n := len(top.Children); n > 0 && !top.Children[n-1].Block && !holds(text) {
				top.Children = top.Children[:n-1]
			}
		case kind == opening && open == nil:
			return p.wrong("a block has no key")
		case kind == opening:
			if len(stack) > MaxDepth {
				return p.wrong("blocks lie in more than %d others", MaxDepth)
			}
			open.Block = true
			if keep {
				top.Children = append(top.Children, open)
			}
			stack = append(stack, open)
			open, keep = nil, true
		case kind == closing && open != nil:
			return p.wrong("%q has no value", short(open.Key))
		case kind == closing && len(stack) == 1:
			return p.wrong("a block ends that did not begin")
		case kind == closing:
			stack = stack[:len(stack)-1]
		case open == nil:
			if p.nodes++; p.nodes > maxNodes {
				return p.wrong("there are more than %d keys", maxNodes)
			}
			open = &Node{Key: text}
		default:
			open.Value = text
			if keep {
				top.Children = append(top.Children, open)
			}
			open, keep = nil, true
		}
	}
}

func (p *parser) wrong(format string, args ...any) error {
	return fmt.Errorf("line %d: %s", 1+strings.Count(p.text[:p.at], "\n"), fmt.Sprintf(format, args...))
}

func short(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

type kind int

const (
	end kind = iota
	word
	opening
	closing
	condition
)

const blanks = " \t\r\n\v\f"

func (p *parser) peek() (string, kind) {
	at := p.at
	defer func() { p.at = at }()
	text, kind, err := p.next()
	if err != nil {
		return "", end
	}
	return text, kind
}

func (p *parser) next() (string, kind, error) {
	for {
		p.at += len(p.text[p.at:]) - len(strings.TrimLeft(p.text[p.at:], blanks))
		if !strings.HasPrefix(p.text[p.at:], "//") {
			break
		}
		p.at += until(p.text[p.at:], "\n")
	}
	rest := p.text[p.at:]
	if rest == "" {
		return "", end, nil
	}
	switch rest[0] {
	case '{':
		p.at++
		return "", opening, nil
	case '}':
		p.at++
		return "", closing, nil
	case '"':
		return p.quoted()
	case '[':
		// A condition stands in one line; what has no end there is a word.
		line := rest[:until(rest, "\n")]
		if n := strings.IndexByte(line, ']'); n > 0 {
			p.at += n + 1
			return line[1:n], condition, nil
		}
	}
	n := until(rest, blanks+`"{}`)
	p.at += n
	return rest[:n], word, nil
}

// until is where the first of some characters is, or the length.
func until(s, chars string) int {
	if n := strings.IndexAny(s, chars); n >= 0 {
		return n
	}
	return len(s)
}

func (p *parser) quoted() (string, kind, error) {
	rest := p.text[p.at+1:]
	if !p.escapes {
		n := strings.IndexByte(rest, '"')
		if n < 0 {
			return "", end, p.wrong("a quote does not end")
		}
		p.at += n + 2
		return rest[:n], word, nil
	}
	var b strings.Builder
	for {
		n := strings.IndexAny(rest, `"\`)
		if n < 0 || rest[n] == '\\' && n+1 == len(rest) {
			return "", end, p.wrong("a quote does not end")
		}
		b.WriteString(rest[:n])
		c := rest[n]
		rest = rest[n+1:]
		if c == '"' {
			p.at = len(p.text) - len(rest)
			return b.String(), word, nil
		}
		switch rest[0] {
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case 'v':
			b.WriteByte('\v')
		case 'b':
			b.WriteByte('\b')
		case 'r':
			b.WriteByte('\r')
		case 'f':
			b.WriteByte('\f')
		case 'a':
			b.WriteByte('\a')
		default: // itself; of a longer character the rest follows as it is
			b.WriteByte(rest[0])
		}
		rest = rest[1:]
	}
}

// holds tells whether a condition is true for a dedicated server on Linux: $A, !$A, joined by || and &&, which binds
// more. $WIN32 means any PC ("KeyValues", "Conditional statements"). What is not known is not true.
func holds(text string) bool {
	for any := range strings.SplitSeq(text, "||") {
		all := true
		for one := range strings.SplitSeq(any, "&&") {
			name, not := strings.CutPrefix(strings.TrimSpace(one), "!")
			var is bool
			switch strings.ToUpper(strings.TrimSpace(name)) {
			case "$WIN32", "$LINUX", "$POSIX":
				is = true
			}
			all = all && is != not
		}
		if all {
			return true
		}
	}
	return false
}
