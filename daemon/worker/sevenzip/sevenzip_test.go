package sevenzip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
)

var limits = Limits{Files: 1000, Header: 1 << 20, Dictionary: 1 << 20}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("../testdata/" + name) // made by make.sh there
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// drain reads all that an archive holds, and counts it.
func drain(data []byte, limits Limits) (names string, size int64, err error) {
	r, err := NewReader(bytes.NewReader(data), int64(len(data)), limits)
	if err != nil {
		return "", 0, err
	}
	for {
		f, content, err := r.Next()
		if err == io.EOF {
			return names, size, nil
		}
		if err != nil {
			return names, size, err
		}
		names += f.Name + "\n"
		n, err := io.Copy(io.Discard, content)
		if size += n; err != nil {
			return names, size, err
		}
	}
}

func TestLimits(t *testing.T) {
	for _, name := range []string{"tree.7z", "lzma.7z"} {
		data := fixture(t, name)
		if _, size, err := drain(data, limits); err != nil || size < 3000 {
			t.Errorf("%s: %d bytes, %v", name, size, err)
		}
		for what, c := range map[string]struct {
			limits Limits
			want   error
		}{
			"files":      {Limits{3, 1 << 20, 1 << 20}, ErrFiles},
			"header":     {Limits{1000, 100, 1 << 20}, ErrFiles},
			"dictionary": {Limits{1000, 1 << 20, 3000}, ErrDictionary},
		} {
			if _, _, err := drain(data, c.limits); err != c.want {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
}

// with makes an archive whose header is not packed, as it stands.
func with(header []byte) []byte {
	next := binary.LittleEndian.AppendUint64(nil, 0)
	next = binary.LittleEndian.AppendUint64(next, uint64(len(header)))
	next = binary.LittleEndian.AppendUint32(next, crc32.ChecksumIEEE(header))
	data := append([]byte("7z\xbc\xaf\x27\x1c\x00\x04"), binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(next))...)
	return append(append(data, next...), header...)
}

// What a header says of numbers and lengths takes no memory before there is something to them.
func TestHostileHeadersAreBounded(t *testing.T) {
	const many = "\xff\xff\xff\xff\xff\xff\xff\xff\x7f" // the largest number
	const half = "\xf0\xff\xff\xff\x0f"                 // 268435455
	for what, c := range map[string]struct{ header, want string }{
		"nothing":                {"", ""},
		"another kind":           {"\x05", "damaged"},
		"no end":                 {"\x01", "damaged"},
		"files":                  {"\x01\x05" + many, "too many entries"},
		"files that fit":         {"\x01\x05\x83\xe8\x00\x00", "damaged"},
		"packed streams":         {"\x01\x04\x06\x00" + half + "\x09", "damaged"},
		"folders":                {"\x01\x04\x07\x0b" + half + "\x00", "damaged"},
		"external folders":       {"\x01\x04\x07\x0b\x01\x01", "an external list"},
		"coders":                 {"\x01\x04\x07\x0b\x01\x00" + half, "damaged"},
		"no coders":              {"\x01\x04\x07\x0b\x01\x00\x00", "damaged"},
		"properties":             {"\x01\x04\x07\x0b\x01\x00\x01\x21\x21" + half, "damaged"},
		"a coder of many inputs": {"\x01\x04\x07\x0b\x01\x00\x01\x14\x03\x03\x01\x1b" + many + many, "BCJ2"},
		"archive properties":     {"\x01\x02\x01" + many, "damaged"},
		"additional streams":     {"\x01\x03\x00", "additional streams"},
		"data outside":           {"\x01\x04\x06\x00\x01\x09\x7f\x00\x07\x0b\x01\x00\x01\x01\x00\x0c\x7f\x00\x00", "cut off"},
		"data far outside":       {"\x01\x04\x06" + many + "\x01\x09\x01\x00\x07\x0b\x01\x00\x01\x01\x00\x0c\x01\x00\x00", "cut off"},
		// A coder that reads what it writes.
		"a circle":            {"\x01\x04\x06\x00\x01\x09\x01\x00\x07\x0b\x01\x00\x03\x01\x00\x01\x00\x01\x00\x00\x01\x01\x01\x0c\x01\x01\x01\x00\x00\x05\x01\x11\x05\x00a\x00\x00\x00\x00\x00", "damaged"},
		"many streams in one": {"\x01\x04\x06\x00\x01\x09\x01\x00\x07\x0b\x01\x00\x01\x01\x00\x0c\x01\x00\x08\x0d" + half, "too many entries"},
	} {
		t.Run(what, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _, err := drain(with([]byte(c.header)), limits)
			runtime.ReadMemStats(&after)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
				t.Errorf("it took %d bytes", n)
			}
		})
	}
}

func TestEncrypted(t *testing.T) {
	for _, name := range []string{"encrypted.7z", "secret.7z"} {
		if _, _, err := drain(fixture(t, name), limits); !errors.Is(err, ErrEncrypted) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, name := range []string{"tree.7z", "lzma.7z", "bzip2.7z", "deflate.7z", "copy.7z", "x86.7z", "delta.7z", "bcj2.7z", "ppmd.7z", "secret.7z", "twelve.7z"} {
		data := fixture(f, name)
		f.Add(data[32:], false)
		// The list of entries as it is when it is not packed, to be changed without its checksum.
		if name == "copy.7z" {
			at := 32 + binary.LittleEndian.Uint64(data[12:])
			f.Add(data[at:], true)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, header bool) {
		data := with(body)
		if !header {
			// As it came, but for what the header at its beginning says.
			data = append([]byte("7z\xbc\xaf\x27\x1c\x00\x04"), body...)
			if len(data) < 32 {
				return
			}
			binary.LittleEndian.PutUint32(data[8:], crc32.ChecksumIEEE(data[12:32]))
		}
		r, err := NewReader(bytes.NewReader(data), int64(len(data)), limits)
		if err != nil {
			return
		}
		for range 1000 {
			f, content, err := r.Next()
			if err != nil {
				return
			}
			if n, err := io.Copy(io.Discard, io.LimitReader(content, 1<<20)); err == nil && n < min(f.Size, 1<<20) {
				t.Fatalf("%d of %d bytes", n, f.Size)
			}
			if f.Size > 1<<20 {
				return
			}
		}
	})
}
