package main

import (
	"regexp"
	"strings"
	"unicode"

	"left4.me/left4/dbus/doc"
)

// How wide a line of text, and a command, may be. Examples fit a terminal of 80 columns.
const (
	lineWidth    = 78
	commandWidth = 74
)

// What roff would take for something else. In a text, a hyphen and an apostrophe may look as they like; what is copied
// from an example must be the character itself.
var (
	inText  = strings.NewReplacer(`\`, `\e`, `^`, `\(ha`, `~`, `\(ti`, "`", `\(ga`)
	inWords = strings.NewReplacer(`\`, `\e`, `^`, `\(ha`, `~`, `\(ti`, "`", `\(ga`, `'`, `\(aq`, `-`, `\-`)
)

// literal is lines that come out as they are.
func literal(text string) string {
	lines := strings.Split(strings.Trim(inWords.Replace(text), "\n"), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return ".Bd -literal\n" + strings.Join(lines, "\n") + "\n.Ed\n"
}

// identifier is a word that is to be found and copied as a whole.
var identifier = regexp.MustCompile(`[a-z][A-Z]|[a-z0-9][./_-][a-z0-9]|^[A-Z]{2}`)

// sentence ends a text that may be one already.
func sentence(text string) string { return strings.TrimSuffix(text, ".") + "." }

// prose is a text, each sentence of which begins a line, as mdoc wants it.
func prose(text string) string {
	var b strings.Builder
	width := 0
	words := strings.Fields(text)
	for i, word := range words {
		ended := i > 0 && strings.HasSuffix(strings.TrimRight(words[i-1], `)"`), ".") && unicode.IsUpper(rune(strings.TrimLeft(word, `("`)[0]))
		switch {
		case i == 0:
		case ended || width+1+len(word) > lineWidth:
			b.WriteByte('\n')
			width = 0
		default:
			b.WriteByte(' ')
			width++
		}
		if width == 0 && (word[0] == '.' || word[0] == '\'') {
			b.WriteString(`\&`)
		}
		if identifier.MatchString(word) {
			b.WriteString(`\%`) // not to be divided
		}
		b.WriteString(inText.Replace(word))
		width += len(word)
	}
	b.WriteByte('\n')
	return b.String()
}

// paragraphs is a comment's text with its tables.
func paragraphs(all []doc.Paragraph) string {
	var b strings.Builder
	for i, p := range all {
		if i > 0 {
			b.WriteString(".Pp\n")
		}
		b.WriteString(prose(p.Text))
		if len(p.Rows) == 0 {
			continue
		}
		b.WriteString(".Bl -tag -width Ds\n")
		for _, r := range p.Rows {
			b.WriteString(".It Li " + r.Name + " Pq " + r.Type + "\n" + prose(sentence(upper(r.Text))))
		}
		b.WriteString(".El\n")
	}
	return b.String()
}

// upper begins a text with a capital, unless its first word is a word of the bus.
func upper(text string) string {
	first, _, _ := strings.Cut(text, " ")
	if strings.ContainsAny(first, "_0123456789\"") || keyword[strings.TrimRight(first, ",;")] {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// keyword are words that texts begin with and that are to be copied as they are.
var keyword = map[string]bool{
	"base": true, "canceled": true, "done": true, "failed": true, "files": true, "keep": true, "name": true,
	"revision": true, "size": true, "target": true, "timeout": true,
}
