package units

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// A file's name is bytes, and servers choose them. People and the bus, which carries UTF-8 only, get a text that stands for exactly
// these bytes, does nothing to a terminal, and can be given back.

// FileText is a file's name or path as text: UTF-8 as it is, but "\\" for a backslash, and \xNN for each byte of a control character, of
// a line or paragraph separator (U+2028, U+2029), and of what is not UTF-8.
func FileText(name string) string {
	if !strings.ContainsFunc(name, special) {
		return name
	}
	var b strings.Builder
	for len(name) > 0 {
		r, n := utf8.DecodeRuneInString(name)
		switch {
		case r == '\\':
			b.WriteString(`\\`)
		case r == utf8.RuneError && n == 1, special(r) && r != utf8.RuneError:
			for _, c := range []byte(name[:n]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		default:
			b.WriteString(name[:n])
		}
		name = name[n:]
	}
	return b.String()
}

// special holds for what FileText may have to write otherwise; U+FFFD stands for itself and for what is not UTF-8.
func special(r rune) bool {
	return r == '\\' || unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == utf8.RuneError
}

// FileName reads what FileText wrote. Letters in \xNN may be large or small, and any byte may be written so but NUL, which no name holds.
func FileName(text string) (string, error) {
	var b strings.Builder
	for rest := text; ; {
		before, after, found := strings.Cut(rest, `\`)
		if strings.Contains(before, "\x00") {
			return "", fmt.Errorf("cannot read the file name %q: it holds a NUL", text)
		}
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		if strings.HasPrefix(after, `\`) {
			b.WriteByte('\\')
			rest = after[1:]
			continue
		}
		if len(after) < 3 || after[0] != 'x' || !isHex(after[1]) || !isHex(after[2]) {
			return "", fmt.Errorf(`cannot read the file name %q: a backslash must be followed by another one or by x and two hexadecimal digits`, text)
		}
		c := unhex(after[1])<<4 | unhex(after[2])
		if c == 0 {
			return "", fmt.Errorf("cannot read the file name %q: it holds a NUL", text)
		}
		b.WriteByte(c)
		rest = after[3:]
	}
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return (c | 0x20) - 'a' + 10
}

const (
	maxPath = 4095 // bytes of a path, as the kernel counts them
	maxName = 255  // bytes of one name in it
)

// CleanPath is the shortest form of a path below some directory, "" for the directory itself. An absolute path is an error, and so is one
// with ".." in it: that is never needed, and its meaning would depend on links.
func CleanPath(file string) (string, error) {
	wrong := func(reason string) (string, error) {
		return "", fmt.Errorf("\"%s\" is no path of a file here: %s", FileText(file), reason)
	}
	switch {
	case strings.HasPrefix(file, "/"):
		return wrong("it must not begin with /")
	case strings.Contains(file, "\x00"):
		return wrong("it holds a NUL")
	case len(file) > maxPath:
		return "", fmt.Errorf("a path of %d bytes is too long, at most %d are taken", len(file), maxPath)
	}
	for part := range strings.SplitSeq(file, "/") {
		if part == ".." {
			return wrong(`".." is not allowed`)
		}
		if len(part) > maxName {
			return wrong(fmt.Sprintf("a name in it has more than %d bytes", maxName))
		}
	}
	if file = path.Clean(file); file == "." {
		return "", nil
	}
	return file, nil
}

// fileError names the file, in the form that can be given back; of a very long path, its end.
func fileError(file string, err error) error {
	var bare unix.Errno
	if errors.As(err, &bare) {
		err = bare // not the name again
	}
	if file == "" {
		file = "."
	}
	before := ""
	if len(file) > maxPath {
		before, file = "…", file[len(file)-maxName:]
	}
	return fmt.Errorf("\"%s%s\": %w", before, FileText(file), err)
}
