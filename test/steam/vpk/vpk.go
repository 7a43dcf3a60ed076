// Package vpk makes archives and mission files as the game has them.
package vpk

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"strings"
)

// The format of a VPK of version 1: a header of signature, version and length of the tree; the tree; the files. The tree has, for each
// extension, for each directory, for each name: the file's checksum, no preloaded bytes, the archive that it is in (this one), its
// offset behind the tree, its length, a terminator. Each level ends with an empty name; a directory is " " where there is none.
// https://developer.valvesoftware.com/wiki/VPK_(file_format)
const (
	Signature  = 0x55aa1234
	this       = 0x7fff // archive
	terminator = 0xffff
)

// Make makes an archive of files by name, in that order.
func Make(names []string, content map[string][]byte) []byte {
	var tree, data bytes.Buffer
	for _, name := range names {
		dir, file := path.Split(name)
		ext := path.Ext(file)
		dir = strings.TrimSuffix(dir, "/")
		if dir == "" {
			dir = " "
		}
		// Each file in a list of its own is as right as one list of all.
		fmt.Fprintf(&tree, "%s\x00%s\x00%s\x00", strings.TrimPrefix(ext, "."), dir, strings.TrimSuffix(file, ext))
		for _, v := range []any{
			crc32.ChecksumIEEE(content[name]), uint16(0), uint16(this), uint32(data.Len()), uint32(len(content[name])), uint16(terminator),
		} {
			_ = binary.Write(&tree, binary.LittleEndian, v)
		}
		tree.WriteString("\x00\x00")
		data.Write(content[name])
	}
	tree.WriteByte(0)
	var out bytes.Buffer
	for _, v := range []uint32{Signature, 1, uint32(tree.Len())} {
		_ = binary.Write(&out, binary.LittleEndian, v)
	}
	out.Write(tree.Bytes())
	out.Write(data.Bytes())
	return out.Bytes()
}

// Mission is a mission file with the maps of a campaign, as the game reads it.
func Mission(name string, maps []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\"mission\"\n{\n\t\"Name\"\t\"%s\"\n\t\"modes\"\n\t{\n", name)
	for _, mode := range []string{"coop", "versus"} {
		fmt.Fprintf(&b, "\t\t\"%s\"\n\t\t{\n", mode)
		for n, m := range maps {
			fmt.Fprintf(&b, "\t\t\t\"%d\"\n\t\t\t{\n\t\t\t\t\"Map\"\t\"%s\"\n\t\t\t\t\"DisplayName\"\t\"%s\"\n\t\t\t}\n", n+1, m, m)
		}
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// Names are those of the files in an archive, none where it is no archive.
func Names(archive io.Reader) (names []string) {
	var head [3]uint32
	if err := binary.Read(archive, binary.LittleEndian, &head); err != nil || head[0] != Signature || head[1] != 1 {
		return nil
	}
	tree := bufio.NewReader(io.LimitReader(archive, int64(head[2])))
	word := func() string {
		text, _ := tree.ReadString(0)
		return strings.TrimSuffix(text, "\x00")
	}
	for ext := word(); ext != ""; ext = word() {
		for dir := word(); dir != ""; dir = word() {
			for name := word(); name != ""; name = word() {
				var entry struct {
					Sum              uint32
					Preload, Archive uint16
					Offset, Length   uint32
					Terminator       uint16
				}
				if err := binary.Read(tree, binary.LittleEndian, &entry); err != nil {
					return names
				}
				if _, err := io.CopyN(io.Discard, tree, int64(entry.Preload)); err != nil {
					return names
				}
				names = append(names, path.Join(strings.TrimSpace(dir), name+"."+ext))
			}
		}
	}
	return names
}
