package daemon

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// program is what a 32-bit ELF file, of the processors that the game is for, wants of the machine.
type program struct {
	interpreter string   // the loader that starts it, "" = it is started otherwise
	needed      []string // libraries, by name
}

var errNotELF = errors.New("it is no 32-bit program")

// Bounds of what is read of a file that anybody may have made: several times what a program of the game has.
const (
	maxHeaders     = 64
	maxDynamic     = 1 << 14
	maxNeeded      = 128
	maxLibraryName = 256
)

// readProgram reads a file as elf(5) tells. debug/elf reads much more, and is not made for hostile files.
func readProgram(r io.ReaderAt) (p program, err error) {
	le := binary.LittleEndian
	read := func(at int64, n int) []byte {
		if err != nil {
			return nil
		}
		b := make([]byte, n)
		_, err = r.ReadAt(b, at)
		return b
	}
	h := read(0, 52)
	if err != nil || !bytes.HasPrefix(h, []byte{0x7f, 'E', 'L', 'F', 1, 1}) {
		return p, errNotELF
	}
	const (
		typeLoad, typeDynamic, typeInterpreter = 1, 2, 3
		tagNeeded, tagStrings                  = 1, 5
	)
	type segment struct{ offset, address, size uint32 }
	var loads []segment
	var dynamic segment
	size, n := int(le.Uint16(h[42:])), int(le.Uint16(h[44:]))
	if size < 32 || n > maxHeaders {
		return p, errNotELF
	}
	for i := range n {
		ph := read(int64(le.Uint32(h[28:]))+int64(i*size), 32)
		if err != nil {
			return program{}, err
		}
		s := segment{le.Uint32(ph[4:]), le.Uint32(ph[8:]), le.Uint32(ph[16:])}
		switch le.Uint32(ph) {
		case typeLoad:
			loads = append(loads, s)
		case typeDynamic:
			dynamic = s
		case typeInterpreter:
			name := read(int64(s.offset), int(min(s.size, maxLibraryName)))
			p.interpreter = text(name)
		}
	}
	entries := read(int64(dynamic.offset), int(min(dynamic.size, maxDynamic)))
	var strings uint32
	var needed []uint32
	for ; len(entries) >= 8; entries = entries[8:] {
		switch value := le.Uint32(entries[4:]); le.Uint32(entries) {
		case tagStrings:
			strings = value
		case tagNeeded:
			needed = append(needed, value)
		}
	}
	if len(needed) > maxNeeded {
		return program{}, errNotELF
	}
	for _, at := range needed {
		for _, s := range loads {
			if strings >= s.address && strings-s.address < s.size {
				// The end of the file may come before that of the buffer.
				name := make([]byte, maxLibraryName)
				got, _ := r.ReadAt(name, int64(s.offset)+int64(strings-s.address)+int64(at))
				if name := text(name[:got]); name != "" {
					p.needed = append(p.needed, name)
				}
			}
		}
	}
	if err != nil {
		return program{}, err
	}
	return p, nil
}

// text is what stands before the first NUL; what is no name of a file is none.
func text(b []byte) string {
	name, _, ok := bytes.Cut(b, []byte{0})
	if !ok || bytes.ContainsFunc(name, func(r rune) bool { return r < '!' || r > '~' }) {
		return ""
	}
	return string(name)
}
