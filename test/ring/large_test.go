package ring

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
)

// left4d neither unpacks nor holds what it merges: however many files there are, it stays small, and one that changes
// costs no other one's room.
func TestAnOverlayOfManyFiles(t *testing.T) {
	Once(t, func(t *testing.T, m *Machine) {
		p := play{m, t}
		p.bring()
		const files, inOne = 200_000, 500
		p.ctl("overlay", "create", "large")
		dir := p.overlayDir("large")
		ends := p.jobsEnd()
		small := func(during string) {
			t.Helper()
			peak := p.peak("left4d.service")
			t.Logf("%s left4d had %d KiB", during, peak)
			if peak >= 64<<10 {
				t.Errorf("%s left4d had %d KiB", during, peak)
			}
		}
		im := p.importOverlay("large", nil)
		out := bufio.NewWriterSize(im.stream, 1<<20)
		w := tar.NewWriter(out)
		for i := range files {
			text := "" // what has blocks takes long to be removed on some disks
			if i%1000 == 0 {
				text = strconv.Itoa(i)
			}
			err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("left4dead2/d%d/f%d.txt", i/inOne, i), Mode: 0o644, Size: int64(len(text))})
			if err == nil {
				_, err = io.WriteString(w, text)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), out.Flush(), im.stream.Close()); err != nil {
			t.Fatal(err)
		}
		if got := ends.ended(t, im.job); got != "done" {
			t.Fatalf("the import is %s: %s", got, p.job(im.job, "Cause"))
		}
		if got := p.ofOverlay("large", "Files"); got != strconv.Itoa(files) {
			t.Errorf("the overlay has %s files", got)
		}
		small("during the import")

		// left4d is killed while it puts files together.
		im = p.importOverlay("large", merging())
		im.write(t, archive(map[string]string{"left4dead2/d0/f0.txt": "bad"}))
		p.waitStatus(im.job, "merging")
		p.killLeft4d()
		if got := strings.Join(p.list(dir), " "); !strings.Contains(got, ".merge-3") {
			t.Errorf("it was not killed while it merged: %s holds %s", dir, got)
		}
		p.Run(t, "systemctl", "unmask", "--runtime", "left4d.service")
		p.Run(t, "systemctl", "start", "left4d.service")
		if got := ends.ended(t, im.job); got != "failed" || !strings.Contains(p.job(im.job, "Cause"), "left4d was restarted while it put the files together") {
			t.Errorf("the import is %s: %s", got, p.job(im.job, "Cause"))
		}
		if got := strings.Join(p.list(dir), " "); got != "1 2" || p.ofOverlay("large", "Revision") != "2" {
			t.Errorf("%s holds %s, and the revision is %s", dir, got, p.ofOverlay("large", "Revision"))
		}

		p.forgetPeak("left4d.service")
		p.WriteFile(t, "/root/f1.txt", "mine", 0o644)
		p.ctl("overlay", "put", "large", "left4dead2/d0/f1.txt", "/root/f1.txt")
		small("during a merge")
		if got := p.ofOverlay("large", "Revision") + " " + p.ofOverlay("large", "Files"); got != "4 "+strconv.Itoa(files) {
			t.Errorf("after a put the overlay's revision and files are %s", got)
		}
		for file, shared := range map[string]bool{"d0/f0.txt": true, "d0/f1.txt": false, fmt.Sprintf("d%d/f%d.txt", (files-1)/inOne, files-1): true} {
			if got := p.sameFile("1/2/left4dead2/"+file, "1/4/left4dead2/"+file); got != shared {
				t.Errorf("%s is shared: %v", file, got)
			}
		}
		if got := p.ctl("overlay", "ls", "large", "left4dead2", "--no-legend"); strings.Count(got, "\n") != files/inOne-1 {
			t.Errorf("left4dead2 has %d entries", strings.Count(got, "\n")+1)
		}
	})
}

// peak is the most memory that the main process of a unit has had, in KiB: its own and that of the files that it maps.
func (p play) peak(unit string) int {
	p.t.Helper()
	status := p.ReadFile(p.t, "/proc/"+strconv.Itoa(p.MainPID(p.t, unit))+"/status")
	_, rest, _ := strings.Cut(status, "VmHWM:")
	n, err := strconv.Atoi(strings.Fields(rest + " ?")[0])
	if err != nil {
		p.t.Fatalf("no VmHWM in\n%s", status)
	}
	return n
}

// forgetPeak lets peak begin again from what the process has now.
func (p play) forgetPeak(unit string) {
	p.t.Helper()
	p.Run(p.t, "sh", "-c", "echo 5 >/proc/"+strconv.Itoa(p.MainPID(p.t, unit))+"/clear_refs")
}
