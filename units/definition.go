package units

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// definitionName is what an instance was defined as when it was last rendered: units only keeps it, beside the plan.
const definitionName = "definition.json"

// KeepDefinition writes what an instance that WriteInstance has written was rendered from, for the day when nobody knows it
// any more.
func (l Layout) KeepDefinition(name string, text []byte) error {
	dir, err := l.openInstance(name)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	temp := definitionName + ".new"
	if err := unix.Unlinkat(dir, temp, 0); err != nil && err != unix.ENOENT {
		return pathError(temp, err)
	}
	if old, err := ReadFileBeneath(dir, definitionName, maxPlan); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := createFile(dir, temp, text, 0o600, -1, -1); err != nil {
		return err
	}
	// No fsync of the directory, which costs a start time: after a power cut there may be the older one.
	if err := unix.Renameat(dir, temp, dir, definitionName); err != nil {
		unix.Unlinkat(dir, temp, 0)
		return pathError(definitionName, err)
	}
	return nil
}

// TidyDefinition removes what a kill may have left of KeepDefinition.
func (l Layout) TidyDefinition(name string) {
	if dir, err := l.openInstance(name); err == nil {
		_ = unix.Unlinkat(dir, definitionName+".new", 0)
		unix.Close(dir)
	}
}

// ReadDefinition reads what KeepDefinition wrote; fs.ErrNotExist where that is nothing.
func (l Layout) ReadDefinition(name string) ([]byte, error) {
	dir, err := l.openInstance(name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	return ReadFileBeneath(dir, definitionName, maxPlan)
}

func (l Layout) openInstance(name string) (int, error) {
	instances, err := l.openSub(instancesDir, name)
	if err != nil {
		return -1, err
	}
	defer unix.Close(instances)
	return OpenBeneath(instances, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// takeDefinition takes the definition along from the directory of an instance that another has taken the place of.
func takeDefinition(parent int, old, new string) error {
	err := unix.Renameat(parent, old+"/"+definitionName, parent, new+"/"+definitionName)
	if err == unix.ENOENT || err == unix.ENOTDIR { // none, or what was there was no directory
		return nil
	}
	return err
}
