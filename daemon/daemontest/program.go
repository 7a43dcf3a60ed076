package daemontest

import (
	"encoding/binary"
	"slices"
)

// Program32 is a 32-bit ELF file that names a loader and libraries, a library itself where interpreter is "". It cannot run.
func Program32(interpreter string, needed ...string) []byte {
	le := binary.LittleEndian
	const address = 0x1000 // of the file in memory
	names, dynamic := []byte{0}, []byte{}
	for _, name := range needed {
		dynamic = le.AppendUint32(le.AppendUint32(dynamic, 1), uint32(len(names)))
		names = append(append(names, name...), 0)
	}
	const headers = 52 + 3*32
	dynamic = le.AppendUint32(le.AppendUint32(dynamic, 5), uint32(address+headers+len(dynamic)+16))
	dynamic = append(dynamic, make([]byte, 8)...)
	body := slices.Concat(dynamic, names, []byte(interpreter), []byte{0})

	file := append([]byte{0x7f, 'E', 'L', 'F', 1, 1, 1}, make([]byte, 45)...)
	le.PutUint32(file[28:], 52)
	le.PutUint16(file[42:], 32)
	le.PutUint16(file[44:], 3)
	segment := func(kind, offset, size int) {
		ph := make([]byte, 32)
		le.PutUint32(ph, uint32(kind))
		le.PutUint32(ph[4:], uint32(offset))
		le.PutUint32(ph[8:], uint32(address+offset))
		le.PutUint32(ph[16:], uint32(size))
		file = append(file, ph...)
	}
	segment(1, 0, headers+len(body))
	segment(2, headers, len(dynamic))
	if interpreter != "" {
		segment(3, headers+len(dynamic)+len(names), len(interpreter)+1)
	} else {
		segment(0, 0, 0)
	}
	return append(file, body...)
}
