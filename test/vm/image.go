package vm

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"left4.me/left4/test/ring"
)

// Further packages of the machines: Debian's kernel for virtual machines, and what makes its devices known.
var packages = []string{"linux-image-cloud-amd64", "udev"}

// An image is a directory of the cache with a kernel and a disk that machines begin with. It stays while it is open.
type image struct {
	suite string
	dir   *os.File
}

func (i image) kernel() string { return filepath.Join(i.dir.Name(), "kernel") }
func (i image) disk() string   { return filepath.Join(i.dir.Name(), "disk") }

//go:embed image.sh
var imageScript string

// openImage returns the image of a suite with the package under test installed, made at first use.
func openImage(t ring.TB, suite string) image {
	t.Helper()
	program := ring.Build(t, "left4.me/left4/test/vm/agent")
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatalf("%v", err)
	}
	dir, err := ring.Derive("vm", suite, ring.Package(t), imageScript+string(content), packages,
		func(dir string, layers []string, lib string) error {
			cmd := exec.Command("unshare", "--mount", "sh", "-euc", imageScript, "image", dir, strings.Join(layers, ":"), lib, program)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			return nil
		})
	if err != nil {
		t.Fatalf("cannot make the disk of a virtual machine: %v", err)
	}
	return image{suite, dir}
}
