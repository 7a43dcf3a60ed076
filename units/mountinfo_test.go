package units

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestParseMountinfo(t *testing.T) {
	const text = `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue
40 22 0:33 / /a\040b\011c\012d\134e\043 rw unbindable - fuse.some\040fs left4-x rw,lowerdir+=/o\054ne,upperdir=/u
41 40 0:34 / /plain rw shared:7 - tmpfs  rw
42 22 0:35 /- /dash rw - - - -
43 22 0:36 / /\9\ rw - tmpfs none rw
`
	got, err := parseMountinfo([]byte(text))
	must(t, err)
	want := []mount{
		{"22", "1", "254:0", "/", "/", "rw,relatime", "ext4", "/dev/vda", "rw"},
		{"36", "35", "98:0", "/mnt1", "/mnt2", "rw,noatime", "ext3", "/dev/root", "rw,errors=continue"},
		{"40", "22", "0:33", "/", "/a b\tc\nd\\e#", "rw", "fuse.some fs", "left4-x", "rw,lowerdir+=/o,ne,upperdir=/u"},
		{"41", "40", "0:34", "/", "/plain", "rw", "tmpfs", "", "rw"},
		{"42", "22", "0:35", "/-", "/dash", "rw", "-", "-", "-"},
		{"43", "22", "0:36", "/", `/\9\`, "rw", "tmpfs", "none", "rw"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	for _, bad := range []string{
		"\n",
		"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw", // cut off
		"22 1 254:0 / / rw,relatime ext4 /dev/vda rw\n", // no dash
		"22 1 254:0 / / rw - ext4 /dev/vda\n",           // a field short
		"22 1 254:0 / / rw - ext4 /dev/vda rw more\n",
		"22 1 254:0 / relative rw - ext4 /dev/vda rw\n",
	} {
		if got, err := parseMountinfo([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

func TestMountinfoOfThisProcess(t *testing.T) {
	all, err := mounts()
	must(t, err)
	if topmost(all, "/proc") == nil || topmost(all, "/not/there") != nil {
		t.Errorf("in %+v", all)
	}
}

func TestTopmost(t *testing.T) {
	// In the order of ids, not of the stack.
	all := []mount{
		{id: "5", parent: "9", point: "/m"},
		{id: "7", parent: "1", point: "/m"},
		{id: "8", parent: "7", point: "/m/sub"},
		{id: "9", parent: "7", point: "/m"},
	}
	if got := topmost(all, "/m"); got == nil || got.id != "5" {
		t.Errorf("got %+v", got)
	}
}

func FuzzParseMountinfo(f *testing.F) {
	if data, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		f.Add(data)
	}
	f.Add([]byte("36 35 98:0 /mnt1 /m\\040nt2\\ rw master:1 x:2 - ext3 /dev/root rw\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseMountinfo(data)
		if err != nil {
			return
		}
		if lines := strings.Count(string(data), "\n"); len(all) != lines {
			t.Fatalf("%d mounts in %d lines", len(all), lines)
		}
		for _, m := range all {
			if !strings.HasPrefix(m.point, "/") {
				t.Fatalf("not absolute: %+v", m)
			}
			topmost(all, m.point)
		}
	})
}
