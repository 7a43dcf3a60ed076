package main

import (
	"strings"
)

// maxCommand is the length at which the engine cuts a console command, in bytes.
const maxCommand = 512

// splitCommands cuts console text, a cfg file or what RCON sends, into commands as the engine's buffer does: at line
// ends, and at semicolons outside double quotes; two slashes outside quotes begin a comment up to the line's end. A
// quote that is left open ends with its line. There are no escapes. The text ends at its first NUL byte.
func splitCommands(text string) []string {
	text, _, _ = strings.Cut(text, "\x00")
	var commands []string
	var command []byte
	flush := func() {
		if len(command) > maxCommand {
			command = command[:maxCommand]
		}
		if trimmed := trim(string(command)); trimmed != "" {
			commands = append(commands, trimmed)
		}
		command = command[:0]
	}
	quoted, comment := false, false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\n':
			flush()
			quoted, comment = false, false
			continue
		case comment:
			continue
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ';':
			flush()
			continue
		case c == '/' && i+1 < len(text) && text[i+1] == '/':
			comment = true
			continue
		}
		command = append(command, c)
	}
	flush()
	return commands
}

// command is one console command, taken apart.
type command struct {
	name string   // in lower case: the console knows no other
	args []string // its words
	rest string   // all that follows the name, as it was written
}

// parseCommand takes a command apart. Words end at blanks; double quotes hold a word together; each of { } ( ) ' : is a
// word of its own. Outside quotes, bytes over 127 are blanks: the engine compares signed characters.
func parseCommand(text string) command {
	words, ends := splitWords(text)
	if len(words) == 0 {
		return command{}
	}
	return command{name: strings.ToLower(words[0]), args: words[1:], rest: trim(text[ends[0]:])}
}

// splitWords returns the words of a command and where in text each of them ends.
func splitWords(text string) (words []string, ends []int) {
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case isBlank(c):
			i++
			continue
		case c == '"':
			end := strings.IndexByte(text[i+1:], '"')
			if end < 0 {
				words = append(words, text[i+1:])
				i = len(text)
			} else {
				words = append(words, text[i+1:i+1+end])
				i += end + 2
			}
		case isBreak(c):
			words = append(words, text[i:i+1])
			i++
		default:
			start := i
			for i < len(text) && !isBlank(text[i]) && !isBreak(text[i]) && text[i] != '"' {
				i++
			}
			words = append(words, text[start:i])
		}
		ends = append(ends, i)
	}
	return words, ends
}

// value is what a cvar gets: all that follows its name, without the quotes around it.
func (c command) value() string {
	text := c.rest
	if unquoted, found := strings.CutPrefix(text, `"`); found {
		return strings.TrimSuffix(unquoted, `"`)
	}
	return text
}

func isBlank(c byte) bool { return c <= ' ' || c > 127 }
func isBreak(c byte) bool { return strings.IndexByte("{}()':", c) >= 0 }

func trim(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return r <= ' ' })
}
