package client

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// FileText is the text that stands for a file name or path of a disk, which may be any bytes, on the bus.
func FileText(name string) string {
	var b strings.Builder
	for len(name) > 0 {
		r, n := utf8.DecodeRuneInString(name)
		switch {
		case r == '\\':
			b.WriteString(`\\`)
		case r == utf8.RuneError && n == 1, unicode.IsControl(r), r == '\u2028', r == '\u2029':
			for i := range n {
				fmt.Fprintf(&b, `\x%02x`, name[i])
			}
		default:
			b.WriteString(name[:n])
		}
		name = name[n:]
	}
	return b.String()
}

// FileName is the reverse of FileText; what cannot be a name is an error.
func FileName(text string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c != '\\':
		case strings.HasPrefix(text[i:], `\\`):
			i++
		case strings.HasPrefix(text[i:], `\x`) && i+4 <= len(text):
			n, err := strconv.ParseUint(text[i+2:i+4], 16, 8)
			if err != nil {
				return "", errors.New(`a backslash is written \\, a byte \x and two hexadecimal digits`)
			}
			c = byte(n)
			i += 3
		default:
			return "", errors.New(`a backslash is written \\, a byte \x and two hexadecimal digits`)
		}
		if c == 0 {
			return "", errors.New("a NUL byte is not allowed")
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}
